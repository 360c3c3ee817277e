"""The only classes a manifest may name. Anything else is refused before anything is imported.

A class path in a manifest is data from a stranger: resolving it freely would let a snapshot import
and call any code on the machine. So names are looked up in this table, and the table is the whole
of it. Names are the public ones of their library, not `type(x)`, which may be a fallback.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from quickthaw.snapshot.fields import JsonValue
from quickthaw.snapshot.format import Problem, invalid


class Role(StrEnum):
    PIPELINE = "pipeline"
    MODEL = "model"
    SCHEDULER = "scheduler"
    PROCESSOR = "processor"


_DIFFUSERS_SCHEDULERS = (
    # Draws its noise with a package of its own, torchsde.
    "CosineDPMSolverMultistepScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EDMDPMSolverMultistepScheduler",
    "EDMEulerScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)

PLAIN_TOKENIZER = "transformers.PreTrainedTokenizerFast"
"""What its `tokenizer.json` says and nothing else. Of a processor that could look at pictures too,
which wants torchvision for that, this is what reads: no pipeline shows it any."""

ALLOWED: Mapping[str, Role] = {
    "diffusers.ChromaPipeline": Role.PIPELINE,
    "diffusers.FluxFillPipeline": Role.PIPELINE,
    "diffusers.FluxKontextPipeline": Role.PIPELINE,
    "diffusers.Flux2KleinPipeline": Role.PIPELINE,
    "diffusers.Flux2Pipeline": Role.PIPELINE,
    "diffusers.FluxPipeline": Role.PIPELINE,
    "diffusers.HunyuanVideoImageToVideoPipeline": Role.PIPELINE,
    "diffusers.HunyuanVideoPipeline": Role.PIPELINE,
    "diffusers.LTXConditionPipeline": Role.PIPELINE,
    "diffusers.LTXImageToVideoPipeline": Role.PIPELINE,
    "diffusers.LTXPipeline": Role.PIPELINE,
    "diffusers.QwenImageEditPipeline": Role.PIPELINE,
    "diffusers.QwenImageEditPlusPipeline": Role.PIPELINE,
    "diffusers.QwenImagePipeline": Role.PIPELINE,
    "diffusers.StableAudioPipeline": Role.PIPELINE,
    "diffusers.StableDiffusion3Pipeline": Role.PIPELINE,
    "diffusers.StableDiffusionInpaintPipeline": Role.PIPELINE,
    "diffusers.StableDiffusionPipeline": Role.PIPELINE,
    "diffusers.StableDiffusionXLInpaintPipeline": Role.PIPELINE,
    "diffusers.StableDiffusionXLPipeline": Role.PIPELINE,
    "diffusers.StableVideoDiffusionPipeline": Role.PIPELINE,
    "diffusers.WanImageToVideoPipeline": Role.PIPELINE,
    "diffusers.WanPipeline": Role.PIPELINE,
    "diffusers.ZImagePipeline": Role.PIPELINE,
    "diffusers.AutoencoderKL": Role.MODEL,
    "diffusers.AutoencoderKLFlux2": Role.MODEL,
    "diffusers.AutoencoderKLHunyuanVideo": Role.MODEL,
    "diffusers.AutoencoderKLLTXVideo": Role.MODEL,
    "diffusers.AutoencoderKLQwenImage": Role.MODEL,
    "diffusers.AutoencoderKLTemporalDecoder": Role.MODEL,
    "diffusers.AutoencoderKLWan": Role.MODEL,
    "diffusers.AutoencoderOobleck": Role.MODEL,
    "diffusers.ChromaTransformer2DModel": Role.MODEL,
    "diffusers.Flux2Transformer2DModel": Role.MODEL,
    "diffusers.FluxTransformer2DModel": Role.MODEL,
    "diffusers.HunyuanVideoTransformer3DModel": Role.MODEL,
    "diffusers.LTXVideoTransformer3DModel": Role.MODEL,
    "diffusers.QwenImageTransformer2DModel": Role.MODEL,
    "diffusers.SD3Transformer2DModel": Role.MODEL,
    "diffusers.StableAudioDiTModel": Role.MODEL,
    "diffusers.StableAudioProjectionModel": Role.MODEL,
    "diffusers.UNet2DConditionModel": Role.MODEL,
    "diffusers.UNetSpatioTemporalConditionModel": Role.MODEL,
    "diffusers.WanTransformer3DModel": Role.MODEL,
    "diffusers.ZImageTransformer2DModel": Role.MODEL,
    "diffusers.StableDiffusionSafetyChecker": Role.MODEL,
    "transformers.CLIPTextModel": Role.MODEL,
    "transformers.CLIPTextModelWithProjection": Role.MODEL,
    "transformers.CLIPVisionModel": Role.MODEL,
    "transformers.CLIPVisionModelWithProjection": Role.MODEL,
    "transformers.LlamaModel": Role.MODEL,
    "transformers.LlavaForConditionalGeneration": Role.MODEL,
    "transformers.Mistral3ForConditionalGeneration": Role.MODEL,
    "transformers.Qwen2_5_VLForConditionalGeneration": Role.MODEL,
    "transformers.Qwen3ForCausalLM": Role.MODEL,
    "transformers.Qwen3Model": Role.MODEL,
    "transformers.T5EncoderModel": Role.MODEL,
    "transformers.UMT5EncoderModel": Role.MODEL,
    "transformers.CLIPImageProcessor": Role.PROCESSOR,
    "transformers.CLIPTokenizer": Role.PROCESSOR,
    PLAIN_TOKENIZER: Role.PROCESSOR,
    "transformers.Qwen2Tokenizer": Role.PROCESSOR,
    "transformers.Qwen2VLProcessor": Role.PROCESSOR,
    "transformers.T5Tokenizer": Role.PROCESSOR,
    **{f"diffusers.{name}": Role.SCHEDULER for name in _DIFFUSERS_SCHEDULERS},
}

_MADE_OF: Mapping[str, Mapping[str, str]] = {
    "transformers.LlavaForConditionalGeneration": {
        "text_config": "llama",
        "vision_config": "clip_vision_model",
    },
    "transformers.Mistral3ForConditionalGeneration": {
        "text_config": "mistral",
        "vision_config": "pixtral",
    },
}
"""Models that are made of whatever their config names, by its `model_type`, and what they are made
of here. Some of what there is fetches weights from anywhere while it is made."""

_HOMES: Mapping[str, str] = {
    # Not exported at the top of its library.
    "diffusers.StableDiffusionSafetyChecker": (
        "diffusers.pipelines.stable_diffusion.safety_checker"
    ),
}

_SAME_AS: Mapping[str, str] = {
    # Names of one class in other releases, or the stand-in where torchvision is missing.
    "transformers.CLIPTokenizerFast": "transformers.CLIPTokenizer",
    "transformers.Qwen2TokenizerFast": "transformers.Qwen2Tokenizer",
    "transformers.Qwen2_5_VLProcessor": "transformers.Qwen2VLProcessor",
    # So models of Llama 3 call a tokenizer that is as its file says. transformers 5 reads it by
    # Llama 2's rules, which lose the spaces, and calls what it has read so by another name.
    "transformers.LlamaTokenizerFast": PLAIN_TOKENIZER,
    "transformers.TokenizersBackend": PLAIN_TOKENIZER,
    "transformers.PixtralProcessor": PLAIN_TOKENIZER,
    "transformers.T5TokenizerFast": "transformers.T5Tokenizer",
    "transformers.CLIPImageProcessorFast": "transformers.CLIPImageProcessor",
    "transformers.CLIPImageProcessorPil": "transformers.CLIPImageProcessor",
    "transformers.CLIPFeatureExtractor": "transformers.CLIPImageProcessor",
    "stable_diffusion.StableDiffusionSafetyChecker": "diffusers.StableDiffusionSafetyChecker",
    "stable_audio.StableAudioProjectionModel": "diffusers.StableAudioProjectionModel",
}


def public_name(path: str) -> str:
    """The name under which a snapshot holds what a library calls `path`."""
    return _SAME_AS.get(path, path)


def check_class(path: str, role: Role, where: str) -> str:
    """`path` under its public name; `SnapshotInvalid` unless it is in the table with that role."""
    path = public_name(path)
    if ALLOWED.get(path) is not role:
        known = ", ".join(sorted(name for name, kind in ALLOWED.items() if kind is role))
        invalid(
            Problem.UNSAFE,
            where,
            f"{path!r:.120} is not a {role.value} class that snapshots may name; known: {known}",
        )
    return path


def check_parts(path: str, config: Mapping[str, JsonValue], where: str) -> None:
    """`SnapshotInvalid` if a model of class `path` with this config has parts of other kinds than
    snapshots may name."""
    for name, kind in _MADE_OF.get(path, {}).items():
        part = config.get(name)
        named = part.get("model_type", kind) if isinstance(part, Mapping) else part
        if part is not None and named != kind:
            told = f"{named!r:.80} is not what {path} is made of here, which is {kind!r}"
            invalid(Problem.UNSAFE, f"{where}.{name}", told)


def class_path(value: object, role: Role, where: str) -> str:
    """The public path of a live object's class, checked."""
    kind = type(value)
    return check_class(f"{kind.__module__.split('.')[0]}.{kind.__name__}", role, where)


def resolve(path: str, role: Role) -> Any:
    """The class itself. This imports its library, so it is the one door to foreign code."""
    path = check_class(path, role, path)
    library, name = path.split(".")
    return getattr(importlib.import_module(_HOMES.get(path, library)), name)
