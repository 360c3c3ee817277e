"""What `quickthaw up` was asked for, and the bounds that it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from quickthaw.wire.restarts import RestartPolicy
from quickthaw.wire.tls_settings import ServerTls

DEVICES = ("auto", "cpu", "cuda")
FLEETS = ("local", "ray")
COMPILED_MODES = ("off", "use", "build")
LOG_LEVELS = ("debug", "info", "warning", "error")
WORKERS_MAX = 256


@dataclass(frozen=True, slots=True)
class UpSettings:
    data_dir: Path
    http: Address
    grpc: Address
    metrics: Address
    workers: int | None = None
    """None for one per GPU, or one where there is none."""
    workers_min: int | None = None
    workers_max: int | None = None
    """Bounds within which the scheduler's wish decides; None for `workers`, which is fixed."""
    scale_down_delay_seconds: float = 60.0
    """How long fewer workers must do before some are let go."""
    device: str = "auto"
    fleet: str = "local"
    store: str | None = None
    blob_store: str | None = None
    prices: Path | None = None
    new_tenant_credit_nanodollars: int = 0
    """What a new tenant may spend until it is granted more; 0 for no bound."""
    vram_bytes: str | None = None
    pinned_bytes: str | None = None
    log_level: str = "info"
    bundled_model: bool = True
    packer: bool = True
    """Whether tenants can have models packed here."""
    pack_dir: Path | None = None
    """For files while they are packed; None for a folder of `data_dir`."""
    push: str | None = None
    """URL of a bucket, or a folder, from which deployed models are served; None for `snapshots`,
    which only workers of this machine reach."""
    start_timeout_seconds: float = 300.0
    drain_seconds: int = 30
    """For what runs at SIGTERM; the processes get a little longer before they are killed."""
    compiled: str = "off"
    tls: ServerTls | None = None
    """What gRPC and HTTP show to others; None for plain text. The parts of this machine call the
    scheduler at a second address, which only they reach."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By part, further arguments of its command line; see `passing`."""
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    crash_pause_seconds: float = 30.0
    """Before a worker that died too often is tried again; doubles up to `crash_pause_seconds_max`
    with each time that it does not help."""
    crash_pause_seconds_max: float = 300.0

    def __post_init__(self) -> None:
        """Raises SettingsInvalid, naming the option."""
        _one_of("--device", self.device, DEVICES)
        _one_of("--fleet", self.fleet, FLEETS)
        _one_of("--compiled", self.compiled, COMPILED_MODES)
        _one_of("--log-level", self.log_level, LOG_LEVELS)
        if self.workers is not None and not 1 <= self.workers <= WORKERS_MAX:
            raise SettingsInvalid(
                f"--workers {self.workers}: give a number from 1 to {WORKERS_MAX}"
            )
        if self.push is not None and not self.packer:
            raise SettingsInvalid("--push is where the packer sends to; leave --no-packer out")
        self._check_bounds()
        if self.prices is not None and not self.prices.is_file():
            raise SettingsInvalid(f"--prices {self.prices}: no such file")
        if self.data_dir.exists() and not self.data_dir.is_dir():
            raise SettingsInvalid(f"--data-dir {self.data_dir} is not a folder")

    def _check_bounds(self) -> None:
        least, most = self.workers_min, self.workers_max
        if least is None and most is None:
            return
        if self.workers is not None:
            raise SettingsInvalid(
                "--workers is a fixed number; give either that or --workers-min and --workers-max"
            )
        if most is None or not 1 <= most <= WORKERS_MAX:
            raise SettingsInvalid(f"--workers-max: give a number from 1 to {WORKERS_MAX}")
        if least is not None and not 0 <= least <= most:
            raise SettingsInvalid(
                f"--workers-min {least}: give a number from 0 to --workers-max, which is {most}"
            )
        if self.scale_down_delay_seconds < 0:
            raise SettingsInvalid("--scale-down-delay must not be negative")

    @property
    def exposed(self) -> str:
        """What to say of addresses that others reach in plain text; empty if there are none."""
        spoken = {"--grpc": self.grpc, "--http": self.http}
        own = any(word.startswith("--tls-cert") for word in self.options.get("gateway", ()))
        if own:
            del spoken["--http"]
        named = [f"{flag} {where}" for flag, where in spoken.items() if not where.is_loopback]
        if self.tls is not None or not named:
            return ""
        return (
            f"plain text on {' and '.join(named)}: whoever is on the way reads keys and requests; "
            "add --tls-cert FILE --tls-key FILE, or keep it to a network that you trust"
        )

    @property
    def elastic(self) -> bool:
        """Whether workers come and go with the traffic."""
        return self.workers_max is not None

    @property
    def blobs(self) -> str:
        return self.blob_store or str(self.data_dir / "blobs")

    @property
    def packing(self) -> Path:
        return self.pack_dir or self.data_dir / "packer"

    @property
    def snapshots(self) -> Path:
        return self.data_dir / "snapshots"

    @property
    def logs(self) -> Path:
        return self.data_dir / "logs"

    @property
    def stop_seconds(self) -> float:
        return self.drain_seconds + 5.0


def parse_address(option: str, text: str) -> Address:
    """Raises SettingsInvalid, naming the option."""
    try:
        return Address.parse(text)
    except SettingsInvalid as error:
        raise SettingsInvalid(f"{option}: {error.message}") from error


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise SettingsInvalid(f"{option} {value!r}: choose one of {', '.join(allowed)}")
