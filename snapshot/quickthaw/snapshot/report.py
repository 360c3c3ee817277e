"""What a load did and how long each part took."""

from __future__ import annotations

from dataclasses import dataclass

from quickthaw.snapshot.tiers import Tier


@dataclass(frozen=True, slots=True)
class ComponentReport:
    """One component of one load.

    Seconds are wall time. Reading and copying overlap, so they do not add up: `read_seconds` lasts
    until the last byte is in host memory and checked, `copy_seconds` from the first copy to the
    device until the last has arrived. Both are 0 where nothing was read or copied.
    """

    name: str
    digest: str
    nbytes: int
    source: Tier
    copier: str | None
    """The source's name, where bytes were read: `direct`, `page_cache`, `delta`..."""
    why: str
    """What made it the source, for people; empty where nothing was read."""
    read_seconds: float
    copy_seconds: float
    read_bytes: int
    """Bytes that came from files or from afar; a delta over a resident base reads few."""


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One load. Modules are bound while bytes move, so the parts can add up to more than
    `total_seconds`."""

    components: tuple[ComponentReport, ...]
    manifest_seconds: float
    skeleton_seconds: float
    tokenizer_seconds: float
    bytes_seconds: float
    bind_seconds: float
    pipeline_seconds: float
    """Schedulers and the pipeline object."""
    total_seconds: float

    @property
    def fixed_seconds(self) -> float:
        """Everything but moving bytes: what a load costs whatever the model's size."""
        return (
            self.manifest_seconds
            + self.skeleton_seconds
            + self.tokenizer_seconds
            + self.bind_seconds
            + self.pipeline_seconds
        )

    @property
    def source(self) -> Tier:
        """The slowest tier that anything came from: the kind of start this was."""
        order = list(Tier)
        return max((part.source for part in self.components), key=order.index)

    @property
    def read_bytes(self) -> int:
        """Bytes that came from files or from afar, rather than from this machine's memory."""
        return sum({part.digest: part.read_bytes for part in self.components}.values())

    def bytes_by_copier(self) -> dict[str, int]:
        """Component bytes by the name of the source that delivered them; `` for what was there."""
        found: dict[str, int] = {}
        for part in {part.digest: part for part in self.components}.values():
            name = part.copier or ""
            found[name] = found.get(name, 0) + part.nbytes
        return found

    def bytes_from(self, tier: Tier) -> int:
        found = {part.digest: part.nbytes for part in self.components if part.source == tier}
        return sum(found.values())


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """Told while bytes move; `component` is the one that moved last."""

    component: str
    loaded_bytes: int
    total_bytes: int
