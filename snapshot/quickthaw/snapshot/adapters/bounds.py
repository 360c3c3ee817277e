"""What a LoRA file of a stranger may say, before the libraries that read it believe it.

diffusers and peft take tensors' names for regular expressions, count layers up to the numbers in
them, and make a configuration of what the file's metadata holds, which can name modules to import
and decompositions to compute. So names are plain, numbers small, and metadata says what plain LoRAs
need it for, ranks and alphas, and nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final, cast

from quickthaw.snapshot.format import Header, Problem, TensorEntry, invalid
from quickthaw.snapshot.strict_json import parse_json

METADATA: Final = "lora_adapter_metadata"
"""diffusers' own, in a safetensors file's."""
METADATA_ITEMS_MAX: Final = 100_000
NAME_CHARS_MAX: Final = 300
SIDE_MAX: Final = 1 << 20
TENSORS_MAX: Final = 16_384
_DTYPES: Final = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"})
_COUNTS: Final = frozenset({"I32", "I64"})
_NAME: Final = re.compile(r"[A-Za-z0-9_.\-/]+")
_LONG_NUMBER: Final = re.compile(r"\d{5}")
_NUMBERS: Final = frozenset({"r", "lora_alpha", "lora_dropout"})
_PATTERNS: Final = frozenset({"rank_pattern", "alpha_pattern"})
_INERT: Final = frozenset(
    {
        *("peft_type", "task_type", "peft_version", "revision", "base_model_name_or_path"),
        *("inference_mode", "auto_mapping"),
    }
)
"""What peft writes and does not act upon when layers are made."""
# What peft writes of what is not used.
_EXPECTED: Final[Mapping[str, tuple[object, ...]]] = {
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian"),
    "megatron_core": ("megatron.core",),
    "qalora_group_size": (16,),
    "runtime_config": ({"ephemeral_gpu_offload": False},),
}


def check_lora(header: Header, where: str) -> None:
    """Raises `SnapshotInvalid`, naming the tensor or the field."""
    if len(header.tensors) > TENSORS_MAX:
        what = f"{len(header.tensors)} tensors, more than {TENSORS_MAX}"
        invalid(Problem.TOO_MANY_TENSORS, where, what)
    for entry in header.tensors:
        _check_tensor(entry, where)
    if METADATA in header.metadata:
        _check_metadata(header.metadata[METADATA], where)


def _check_tensor(entry: TensorEntry, where: str) -> None:
    name = entry.name
    if not _is_plain(name):
        invalid(Problem.UNSAFE, where, f"{name!r:.200} is no name of a layer's tensor")
    one = sum(entry.shape) <= 1
    if entry.dtype not in _DTYPES and not (one and entry.dtype in _COUNTS):
        invalid(Problem.UNKNOWN_DTYPE, where, f"{name} is {entry.dtype}, not a float")
    if len(entry.shape) > 4 or any(not 0 < side <= SIDE_MAX for side in entry.shape):
        invalid(Problem.BAD_SHAPE, where, f"{name} has the shape {list(entry.shape)}")


def _is_plain(name: str) -> bool:
    """As a regular expression it matches itself and little else, in linear time."""
    plain = len(name) <= NAME_CHARS_MAX and _NAME.fullmatch(name)
    return bool(plain) and _LONG_NUMBER.search(name) is None


def _check_metadata(text: str, where: str) -> None:
    try:
        given = parse_json(text.encode(), METADATA_ITEMS_MAX)
    except ValueError as error:
        invalid(Problem.HEADER_MALFORMED, where, f"its {METADATA} is no JSON: {error}")
    if not isinstance(given, dict):
        invalid(Problem.HEADER_MALFORMED, where, f"its {METADATA} is no JSON object")
    for key, value in cast("dict[str, object]", given).items():
        if not _is_meant(key.rpartition(".")[2], value):
            told = f"its {METADATA} has {key!r:.100} = {json.dumps(value)[:100]}"
            invalid(Problem.UNSAFE, where, f"{told}, which a plain LoRA has no use for")


def _is_meant(field: str, value: object) -> bool:
    if field in _INERT or not value:  # what is off, or left to its default
        return True
    if field in _NUMBERS:
        return _is_number(value)
    if field in _PATTERNS:
        return isinstance(value, dict) and all(
            _is_plain(name.removeprefix("^")) and _is_number(number)
            for name, number in cast("dict[str, object]", value).items()
        )
    if field == "target_modules":
        return isinstance(value, list) and all(
            isinstance(name, str) and _is_plain(name) for name in cast("list[object]", value)
        )
    return value in _EXPECTED.get(field, ())


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e6
