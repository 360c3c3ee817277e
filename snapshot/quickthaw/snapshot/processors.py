"""Tokenizers, image processors and schedulers: the small parts, built from manifests."""

from __future__ import annotations

import functools
import hashlib
import tempfile
import threading
from pathlib import Path
from typing import Any

from quickthaw.snapshot.classes import Role, resolve
from quickthaw.snapshot.format import Problem, invalid
from quickthaw.snapshot.manifest import Processor, Scheduler
from quickthaw.snapshot.processor_files import check_processor_file
from quickthaw.snapshot.reader import StoreReader

CACHED_MAX = 256
_READS_AND_SEES = "Qwen2VLProcessor"


def build_scheduler(scheduler: Scheduler) -> Any:
    """A new scheduler: it keeps state between steps, so it is never shared."""
    kind = resolve(scheduler.class_path, Role.SCHEDULER)
    try:
        # Not `from_config`, which imports every compatible scheduler first.
        return kind(**scheduler.config)
    except Exception as error:
        invalid(
            Problem.MANIFEST,
            f"scheduler {scheduler.name}",
            f"{scheduler.class_path} does not accept the config: {error}",
        )


def build_processor(processor: Processor, store: StoreReader) -> Any:
    """Blobs are checked against their digests, then read by the library from a private folder."""
    kind = resolve(processor.class_path, Role.PROCESSOR)
    where = f"processor {processor.name}"
    with tempfile.TemporaryDirectory(prefix="quickthaw-") as folder:
        for name, blob in processor.files.items():
            content = store.read_blob(blob)
            check_processor_file(name, content, f"{where}, {name}", processor.class_path)
            (Path(folder) / name).write_bytes(content)
        try:
            return read_processor(kind, Path(folder))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # native code that panics raises no Exception
            invalid(Problem.MANIFEST, where, f"{processor.class_path} cannot read it: {error}")


def read_processor(kind: Any, folder: Path) -> Any:
    """One of `kind`, a class that `resolve` gave, from its files."""
    if kind.__name__ != _READS_AND_SEES:
        return kind.from_pretrained(folder, local_files_only=True)
    import transformers

    parts = (transformers.Qwen2Tokenizer, transformers.Qwen2VLImageProcessor)
    return reading_and_seeing(
        *(part.from_pretrained(folder, local_files_only=True) for part in parts)
    )


def save_processor(processor: Any, folder: str) -> None:
    """Its files, as `read_processor` reads them."""
    several = type(processor).__name__ == _READS_AND_SEES
    parts = (processor.tokenizer, processor.image_processor) if several else (processor,)
    for part in parts:
        part.save_pretrained(folder)


def reading_and_seeing(tokenizer: Any, image_processor: Any) -> Any:
    """A Qwen2VLProcessor of these parts. Its third is for videos and wants torchvision; no pipeline
    here shows it any."""
    import transformers

    return _of_parts(transformers.Qwen2VLProcessor, ("image_processor", "tokenizer"))(
        image_processor, tokenizer
    )


@functools.cache
def _of_parts(kind: Any, names: tuple[str, ...]) -> Any:
    """The same class of a processor, which goes without its other parts."""

    def attributes(cls: Any) -> list[str]:
        return [*names]

    def fits(self: Any, name: str, part: Any) -> Any:
        # None stands for each part that it goes without.
        known = super(fewer, self).check_argument_for_proper_class
        return None if part is None else known(name, part)

    told = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    methods = {"get_attributes": classmethod(attributes), "check_argument_for_proper_class": fits}
    fewer: Any = type(kind.__name__, (kind,), {**told, **methods})
    return fewer


class ProcessorCache:
    """Processors by content, oldest dropped beyond a bound. Building one takes 0.1 s or more.

    Models share them, so only one thread may run pipelines that do.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._built: dict[str, Any] = {}

    def get(self, processor: Processor, store: StoreReader) -> Any:
        key = _key(processor)
        with self._lock:
            if key not in self._built:
                if len(self._built) >= CACHED_MAX:
                    del self._built[next(iter(self._built))]
                self._built[key] = build_processor(processor, store)
            return self._built[key]


def _key(processor: Processor) -> str:
    parts = [processor.class_path]
    for name, blob in sorted(processor.files.items()):
        parts += [name, blob.digest]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
