"""A live pipeline in a manifest's terms: its parts and their configs."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping
from typing import Any, cast

import torch

from quickthaw.snapshot.classes import PLAIN_TOKENIZER, Role, class_path, public_name
from quickthaw.snapshot.families import Family
from quickthaw.snapshot.fields import UNSAFE_CONFIG_KEYS, JsonValue
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.manifest import ATTENTION_KINDS

# Left out of configs: they say where a part came from, not what it is (the dtypes that count are
# those of the tensors). Leaving them out is also what makes equal parts have equal configs.
_PROVENANCE = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
)
_FILLED_IN = frozenset(
    {
        "_attn_implementation",
        "_attn_implementation_internal",
        "attn_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
    }
)


def parts_of(pipeline: Any, family: Family) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's modules in load order, and its other parts. Refuses what has no place."""
    modules: dict[str, Any] = {}
    others: dict[str, Any] = {}
    for name, part in pipeline.components.items():
        if part is None:
            continue
        if isinstance(part, torch.nn.Module):
            if name not in family.components:
                known = ", ".join(family.components)
                invalid(Problem.MANIFEST, name, f"{family.name} has no such module; it has {known}")
            _refuse_adapters(name, part)
            modules[name] = part
        else:
            others[name] = _read_with(part)
    return {name: modules[name] for name in family.components if name in modules}, others


def _read_with(part: Any) -> Any:
    """A processor under whose name a snapshot holds a tokenizer is that tokenizer."""
    path = f"transformers.{type(part).__name__}"
    inner = getattr(part, "tokenizer", None)
    return inner if inner is not None and public_name(path) == PLAIN_TOKENIZER else part


def _refuse_adapters(name: str, module: Any) -> None:
    """A module with an adapter in it has other tensors than its config says."""
    if getattr(module, "peft_config", None):
        invalid(
            Problem.MANIFEST,
            name,
            "has an adapter loaded; call unload_lora_weights() first, adapters are kept "
            "apart from the model they fit",
        )
    # Some models have such a projection of their own, which their config asks for.
    projection = type(getattr(module, "encoder_hid_proj", None)).__name__
    if projection == "MultiIPAdapterImageProjection":
        invalid(
            Problem.MANIFEST,
            name,
            "has an IP-Adapter loaded, which no snapshot can hold yet; call unload_ip_adapter() "
            "and pack the model as it was",
        )


def check_chat_template(pipeline: Any, family: Family) -> None:
    """Refuses a tokenizer that frames prompts otherwise than its family's pipelines will."""
    if (chat := family.chat) is None:
        return
    frame = functools.partial(
        pipeline.tokenizer.apply_chat_template,
        [dict(message) for message in chat.example],
        tokenize=False,
        **chat.settings,
    )
    own = getattr(pipeline.tokenizer, "chat_template", None)
    if own is not None and frame(chat_template=own) != frame(chat_template=chat.template):
        invalid(
            Problem.MANIFEST,
            "tokenizer",
            f"its chat template frames a prompt otherwise than {family.name} does, whose own is "
            "used in its place: pack the model with the template that it was published with",
        )


def check_prompt_template(pipeline: Any) -> None:
    """Refuses a tokenizer that reads what a pipeline puts before prompts as more tokens, or fewer,
    than the pipeline then takes off: parts of the prompt would be gone, or of the template there.
    """
    encode = getattr(pipeline, "encode_prompt", None)
    given = inspect.signature(encode).parameters.get("prompt_template") if encode else None
    if given is None or pipeline.tokenizer is None:
        return
    before, taken_off = given.default["template"].partition("{}")[0], given.default["crop_start"]
    if pipeline.tokenizer.padding_side != "right":
        side = pipeline.tokenizer.padding_side
        invalid(
            Problem.MANIFEST,
            "tokenizer",
            f"it pads prompts on the {side}, and the pipeline takes off what comes before them: "
            "set its padding_side to right",
        )
    if (tokens := len(pipeline.tokenizer(before).input_ids)) != taken_off:
        invalid(
            Problem.MANIFEST,
            "tokenizer",
            f"it reads what comes before a prompt as {tokens} tokens, of which the pipeline takes "
            f"off {taken_off}, so it is not the one that the model was published with; pack the "
            "model's folder, for transformers 5 reads some of these files wrongly",
        )


def pipeline_arguments(pipeline: Any) -> dict[str, JsonValue]:
    """What the pipeline's constructor was told beside its parts."""
    return {
        name: value
        for name, value in pipeline.config.items()
        if not name.startswith("_")
        and name not in pipeline.components
        and isinstance(value, str | int | float | bool)
    }


def module_config(module: Any, where: str) -> dict[str, JsonValue]:
    """The module's config as JSON, without provenance. Refuses code and quantisation in it."""
    if isinstance(module.config, Mapping):  # diffusers
        config = json.loads(module.to_json_string())
        config = {name: value for name, value in config.items() if not name.startswith("_")}
    else:
        config = json.loads(json.dumps(module.config.to_dict()))
    return cast("dict[str, JsonValue]", _without_provenance(config, where))


def _without_provenance(config: JsonValue, where: str) -> JsonValue:
    match config:
        case dict():
            for key in config.keys() & UNSAFE_CONFIG_KEYS.keys() - _PROVENANCE - _FILLED_IN:
                if config[key] is not None:
                    invalid(Problem.UNSAFE, f"{where}.{key}", UNSAFE_CONFIG_KEYS[key])
            return {
                key: _without_provenance(value, where)
                for key, value in config.items()
                if key not in _PROVENANCE and key not in UNSAFE_CONFIG_KEYS
            }
        case list():
            return [_without_provenance(value, where) for value in config]
        case _:
            return config


def module_attention(module: Any) -> str | None:
    """transformers' attention kind, if the module is one of its; faster kernels become sdpa."""
    if isinstance(module.config, Mapping):
        return None
    kind = module.config._attn_implementation or "eager"
    return kind if kind in ATTENTION_KINDS else "sdpa"


def scheduler_config(scheduler: Any, where: str) -> dict[str, JsonValue]:
    """The constructor's arguments."""
    class_path(scheduler, Role.SCHEDULER, where)
    config = json.loads(scheduler.to_json_string())
    return {name: value for name, value in config.items() if not name.startswith("_")}
