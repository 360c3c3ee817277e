"""Flux 2 and Klein: a language model reads the prompt; a picture may be seen beside it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from quickthaw.snapshot.families.base import (
    EXAMPLE_PROMPT,
    LORAS,
    Chat,
    Family,
    Learned,
)
from quickthaw.snapshot.families.z_image import QWEN_TURNS
from quickthaw.snapshot.manifest import Kind


def _in_few_steps(pipeline: Any) -> Learned:
    """Klein comes distilled for four steps, and as the base of that."""
    if pipeline.config.get("is_distilled"):
        return Learned(defaults={"num_inference_steps": 4, "guidance_scale": 1.0})
    return Learned(defaults={"num_inference_steps": 50})


FLUX2 = Family(
    name="flux2",
    pipeline_classes=("diffusers.Flux2Pipeline",),
    components={
        "text_encoder": Kind.TEXT_ENCODER,
        "transformer": Kind.DENOISER,
        "vae": Kind.VAE,
    },
    denoiser="transformer",
    patch=2,
    inputs=("image_url", "image_urls", *LORAS),
    defaults={"guidance_scale": 4.0, "num_inference_steps": 28},
    described={
        "prompt": "What the picture shows, or is to be different in the one that is given.",
        "image_url": "A picture to change or to draw after: an HTTP or data URL.",
    },
    side_step=16,
    landscape=(1024, 1024),
    chat=Chat(
        "{{ bos_token }}{% for message in messages %}"
        "{% if message.role == 'system' %}"
        "[SYSTEM_PROMPT]{{ message.content[0].text }}[/SYSTEM_PROMPT]"
        "{% else %}[INST]{% for part in message.content %}{{ part.text }}{% endfor %}[/INST]"
        "{% endif %}{% endfor %}",
        (
            {"role": "system", "content": [{"type": "text", "text": "You describe pictures.\n"}]},
            {"role": "user", "content": [{"type": "text", "text": EXAMPLE_PROMPT}]},
        ),
        {"add_generation_prompt": False},
    ),
)

FLUX2_KLEIN = replace(
    FLUX2,
    name="flux2_klein",
    pipeline_classes=("diffusers.Flux2KleinPipeline",),
    defaults={"guidance_scale": 4.0},
    learn=_in_few_steps,
    chat=Chat(
        QWEN_TURNS + "{{ '<think>\n\n</think>\n\n' }}",
        ({"role": "user", "content": EXAMPLE_PROMPT},),
        {"add_generation_prompt": True, "enable_thinking": False},
    ),
)
