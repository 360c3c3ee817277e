"""Where packing gets a pipeline from: a diffusers folder, or a single safetensors file with one.

What a folder names is checked before the libraries see it, since they would import it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from quickthaw.snapshot.classes import (
    PLAIN_TOKENIZER,
    Role,
    check_class,
    check_parts,
    public_name,
    resolve,
)
from quickthaw.snapshot.families import Family, family_of
from quickthaw.snapshot.fields import check_config, parse_object
from quickthaw.snapshot.format import (
    Header,
    Problem,
    invalid,
    read_header,
    refuse_pickle_bytes,
    refuse_pickle_name,
)
from quickthaw.snapshot.live import live_pipeline, save_without_weights
from quickthaw.snapshot.processors import read_processor
from quickthaw.snapshot.reader import Snapshot
from quickthaw.snapshot.tensors import DTYPES
from quickthaw.wire.errors import InvalidArgument

INDEX_BYTES_MAX = 1024 * 1024
_FLOATING = frozenset({"F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"})
_EIGHT_BITS = frozenset({torch.float8_e4m3fn, torch.float8_e5m2})
_READ_HERE = frozenset({PLAIN_TOKENIZER, "transformers.Qwen2VLProcessor"})
_WHOLE_CHECKPOINT = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")
DTYPE_NAMES: Mapping[str, str] = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def open_source(
    source: Path, *, base: Path | Snapshot | None, dtype: str | None, component: str | None
) -> Any:
    """A pipeline on the CPU from `source`; arguments as those of `pack`."""
    if source.is_dir():
        return open_folder(source, dtype=dtype)
    if not source.exists():
        raise InvalidArgument(f"{source}: no such file or folder")
    if not source.is_file():
        raise InvalidArgument(f"{source}: neither a diffusers folder nor a safetensors file")
    refuse_pickle_name(source.name)
    header = _header(source)
    if base is None:
        raise InvalidArgument(
            f"{source}: a single file holds weights only; give base=FOLDER, a diffusers folder of "
            "the same family with the configs and tokenizers, or the digest of a snapshot"
        )
    if isinstance(base, Snapshot):
        return open_over_snapshot(source, header, base, dtype=dtype, component=component)
    return open_single_file(source, header, base, dtype=dtype, component=component)


def open_folder(folder: Path, *, dtype: str | None) -> Any:
    """`from_pretrained` of a checked folder, each part in the dtype of its file or in `dtype`."""
    _, pipeline_class, modules = check_folder(folder)
    dtypes = {name: _torch_dtype(folder / name, dtype) for name in modules}
    variant = _variant(folder, modules)
    own = _read_here(folder)
    pipeline = pipeline_class.from_pretrained(
        folder,
        dtype={**dtypes, "default": torch.float32},
        variant=variant,
        use_safetensors=True,
        local_files_only=True,
        low_cpu_mem_usage=True,
        **dict.fromkeys(own),
    )
    pipeline.register_modules(**own)
    return pipeline


def check_folder(folder: Path) -> tuple[Family, Any, tuple[str, ...]]:
    """The folder's family, pipeline class and module names, all of them known and without code."""
    path = folder / "model_index.json"
    if not path.is_file():
        invalid(Problem.MISSING, str(folder), "not a diffusers folder: it has no model_index.json")
    where = str(path)
    index = parse_object(path.read_bytes()[:INDEX_BYTES_MAX], where)
    class_path = check_class(f"diffusers.{index.get('_class_name')}", Role.PIPELINE, where)
    family = family_of(class_path)
    modules: list[str] = []
    for part, value in index.items():
        if part.startswith("_"):
            continue
        if not isinstance(value, list) or value == [None, None]:
            continue  # a setting of the pipeline, or a part it goes without
        if _check_part(part, value, where) is Role.MODEL:
            kind = public_name(".".join(map(str, value)))
            if part not in family.components:
                invalid(Problem.MANIFEST, f"{where}.{part}", f"{family.name} has no such module")
            _check_weights(folder / part, kind)
            modules.append(part)
    return family, resolve(class_path, Role.PIPELINE), tuple(modules)


def _read_here(folder: Path) -> dict[str, Any]:
    """Of a checked folder, the parts that their library reads as something else, or not at all
    where there is no torchvision."""
    index = parse_object((folder / "model_index.json").read_bytes(), str(folder))
    paths = {
        name: public_name(".".join(map(str, value)))
        for name, value in index.items()
        if isinstance(value, list)
    }
    return {
        name: read_processor(resolve(path, Role.PROCESSOR), folder / name)
        for name, path in paths.items()
        if path in _READ_HERE
    }


def _check_part(part: str, value: list[Any], where: str) -> Role:
    library, name = [*value, None, None][:2]
    path = f"{library}.{name}"
    if "Scheduler" in path:
        role = Role.SCHEDULER
    elif "Tokenizer" in path or "Processor" in path or "FeatureExtractor" in path:
        role = Role.PROCESSOR
    else:
        role = Role.MODEL
    check_class(path, role, f"{where}.{part}")
    return role


def _check_weights(folder: Path, kind: str) -> None:
    """A module's folder must have safetensors, and a config that names no code."""
    files = sorted(path for path in folder.glob("*") if path.is_file())
    if not any(path.suffix == ".safetensors" for path in files):
        for path in files:
            refuse_pickle_name(str(path))
        invalid(Problem.MISSING, str(folder), "holds no .safetensors file")
    config = folder / "config.json"
    values = parse_object(config.read_bytes()[:INDEX_BYTES_MAX], str(config))
    for key in ("auto_map", "quantization_config"):
        if key in values:
            check_config({key: values[key]}, str(config))
    check_parts(kind, values, str(config))


def _torch_dtype(folder: Path, dtype: str | None) -> torch.dtype:
    """`dtype`, or the one that most bytes of the folder's weights have."""
    if dtype is not None:
        return named_dtype(dtype)
    return _majority_dtype(*map(_header, folder.glob("*.safetensors")))


def named_dtype(dtype: str) -> torch.dtype:
    if dtype not in DTYPE_NAMES:
        raise InvalidArgument(f"dtype {dtype!r:.40} is unknown; one of {', '.join(DTYPE_NAMES)}")
    return DTYPES[DTYPE_NAMES[dtype]]


def _variant(folder: Path, modules: tuple[str, ...]) -> str | None:
    """ "fp16" for folders that hold nothing but files named so."""
    names = [path.name for module in modules for path in (folder / module).glob("*.safetensors")]
    return "fp16" if names and all(".fp16" in name for name in names) else None


def _header(path: Path) -> Header:
    with path.open("rb") as file:
        refuse_pickle_bytes(file.read(9), str(path))
        return read_header(file, str(path))


def open_single_file(
    source: Path, header: Header, base: Path, *, dtype: str | None, component: str | None
) -> Any:
    """`base` with the weights of `source`: a whole checkpoint, or one component's."""
    family, pipeline_class, _ = check_folder(base)
    names = {entry.name for entry in header.tensors}
    if component is None and any(name.startswith(_WHOLE_CHECKPOINT) for name in names):
        wanted = _majority_dtype(header) if dtype is None else named_dtype(dtype)
        return pipeline_class.from_single_file(
            str(source), config=str(base), local_files_only=True, dtype=wanted
        )
    pipeline = open_folder(base, dtype=dtype)
    target = component or _component_with(pipeline, family, names, source)
    _replace(pipeline, target, source, names, dtype)
    return pipeline


def open_over_snapshot(
    source: Path, header: Header, base: Snapshot, *, dtype: str | None, component: str | None
) -> Any:
    """The same for a base that is a snapshot."""
    pipeline = live_pipeline(base)
    names = {entry.name for entry in header.tensors}
    if component is None and any(name.startswith(_WHOLE_CHECKPOINT) for name in names):
        wanted = _majority_dtype(header) if dtype is None else named_dtype(dtype)
        with TemporaryDirectory(prefix="quickthaw-") as folder:
            save_without_weights(pipeline, Path(folder))
            return resolve(base.manifest.pipeline_class, Role.PIPELINE).from_single_file(
                str(source), config=folder, local_files_only=True, dtype=wanted
            )
    family = family_of(base.manifest.pipeline_class)
    target = component or _component_with(pipeline, family, names, source)
    _replace(pipeline, target, source, names, dtype)
    return pipeline


def _majority_dtype(*headers: Header) -> torch.dtype:
    """The type to open the files in: what most bytes have, but nothing is computed in eight bits.

    bfloat16 and float16 hold every value of eight bits, so packing finds them all again.
    """
    counts: Counter[str] = Counter()
    for entry in (entry for header in headers for entry in header.tensors):
        if entry.dtype in _FLOATING:
            counts[entry.dtype] += entry.end - entry.start
    found = DTYPES[counts.most_common(1)[0][0]] if counts else torch.float32
    return torch.bfloat16 if found in _EIGHT_BITS else found


def holds_fp8(source: Path) -> bool:
    """Whether a file, or any file of a diffusers folder, has weights as F8_E4M3."""
    paths = source.glob("*/*.safetensors") if source.is_dir() else (source,)
    return any(entry.dtype == "F8_E4M3" for path in paths for entry in _header(path).tensors)


def _component_with(pipeline: Any, family: Family, names: set[str], source: Path) -> str:
    for name in family.components:
        module = getattr(pipeline, name, None)
        if module is not None and names == set(module.state_dict()):
            return name
    raise InvalidArgument(
        f"{source}: its tensors are those of no component of the base; name the one it replaces "
        f"with component=NAME, one of {', '.join(family.components)}"
    )


def _replace(pipeline: Any, target: str, source: Path, names: set[str], dtype: str | None) -> None:
    from safetensors.torch import load_file

    module = getattr(pipeline, target, None)
    if not isinstance(module, torch.nn.Module):
        raise InvalidArgument(f"the base has no component {target!r:.80} to replace")
    state = load_file(source)
    wanted = set(module.state_dict())
    if names != wanted:
        odd = sorted(names ^ wanted)[0]
        invalid(
            Problem.MANIFEST,
            str(source),
            f"its tensors are not those of {target}: {len(names ^ wanted)} differ, first {odd!r}",
        )
    for name, tensor in state.items():
        if tensor.shape != module.state_dict()[name].shape:
            invalid(Problem.BAD_SHAPE, str(source), f"{name} has shape {tuple(tensor.shape)}")
    if dtype is not None:
        state = {
            name: each.to(named_dtype(dtype)) if each.is_floating_point() else each
            for name, each in state.items()
        }
    else:
        # Every type of the base's holds all values of eight bits; packing finds them again.
        kinds = {name: each.dtype for name, each in module.state_dict().items()}
        state = {
            name: each.to(kinds[name]) if each.dtype in _EIGHT_BITS else each
            for name, each in state.items()
        }
    module.load_state_dict(state, assign=True)
