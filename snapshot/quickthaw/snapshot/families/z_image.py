"""Z-Image, with the defaults of its fast release (Turbo), which needs no guidance."""

from __future__ import annotations

from quickthaw.snapshot.families.base import (
    EXAMPLE_PROMPT,
    FROM_PICTURE,
    IN_EACH_BRANCH,
    LORAS,
    Chat,
    Family,
)
from quickthaw.snapshot.manifest import Kind

QWEN_TURNS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
"""As Qwen's models were taught to read and to answer."""

Z_IMAGE = Family(
    name="z_image",
    pipeline_classes=("diffusers.ZImagePipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=2,
    inputs=(*IN_EACH_BRANCH, *FROM_PICTURE, *LORAS),
    defaults={"guidance_scale": 0.0, "num_inference_steps": 8},
    side_step=16,
    landscape=(1024, 1024),
    chat=Chat(
        QWEN_TURNS,
        ({"role": "user", "content": EXAMPLE_PROMPT},),
        {"add_generation_prompt": True, "enable_thinking": True},
    ),
)
