"""The worker's settings: one frozen object, checked before anything starts."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from quickthaw.snapshot.remote.base import RemoteSettings
from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from quickthaw.wire.tls_settings import TlsFiles, add_tls_flags, dialled
from quickthaw.worker.adapter_limits import AdapterLimits
from quickthaw.worker.families import NAMES
from quickthaw.worker.video_files import VideoCodec

_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")
_PEERS_URL = re.compile(r"https?://[^/?#@\s]+/?")
_DIGEST = re.compile(r"[0-9a-f]{64}")
COMPILED_MODES = ("off", "use", "build")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """None stands for "find out from the device at start"."""

    scheduler: Address
    key: str
    data_dir: Path
    worker_id: str
    device: str
    visible_gpus: tuple[str, ...] | None
    gpu_type: str | None
    vram_bytes: int | None
    pinned_bytes: int | None
    concurrency: int
    batch_max: int
    ready_max: int
    overtakes_max: int
    attempts_max: int
    events_max: int
    blob_store: str
    metrics: Address
    labels: Mapping[str, str]
    snapshot_store: Path
    prepare: tuple[str, ...]
    families: tuple[str, ...]
    torch_threads: int
    drain_seconds: float
    verify: bool
    compiled: str
    compiled_cache: Path
    log_level: str
    log_json: bool
    peers: Address | None = None
    peers_url: str | None = None
    peer_streams: int = 16
    peer_seconds: float = 30.0
    remote: RemoteSettings = field(default_factory=RemoteSettings)
    video_codec: VideoCodec = VideoCodec.AUTO
    adapters: AdapterLimits = field(default_factory=AdapterLimits)
    scheduler_tls: TlsFiles | None = None
    """What goes with dialling it; None for plain text."""
    peers_tls: bool = False
    """Whether peers read by TLS, which shows that certificate."""


def size_bytes(text: str) -> int:
    """`512MiB`, `8GiB`, `1.5GB` or plain bytes. Raises SettingsInvalid."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].lower() not in _UNITS:
        raise SettingsInvalid(f"{text!r} is no size: write for example 512MiB or 8GiB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise SettingsInvalid(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="quickthaw worker",
        description="Runs models on one device for a Quickthaw scheduler.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--scheduler",
        required=True,
        metavar="HOST:PORT",
        help="the scheduler's gRPC address; grpcs://HOST:PORT for TLS",
    )
    add_tls_flags(parser)
    add("--key-file", metavar="PATH", help="file with a key of scope `worker` ($QUICKTHAW_KEY)")
    add("--data-dir", metavar="DIR", help="the worker's own files (.quickthaw/worker-ID)")
    add("--worker-id", metavar="ID", help="unique in the fleet (the host's name and a number)")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (auto)")
    add("--gpu-type", metavar="NAME", help="price tier, such as h100-80gb (the device's name)")
    add("--vram-bytes", metavar="SIZE", help="for weights and working memory (the device's)")
    add("--pinned-bytes", metavar="SIZE", help="host memory for the pinned tier")
    add("--concurrency", default="1", metavar="N", help="attempts that run at once (1)")
    add("--batch-max", default="1", metavar="N", help="like attempts in one run, 1 for alone (1)")
    add("--ready-max", default="2", metavar="N", help="models that wait loaded for a run (2)")
    add("--overtakes-max", default="16", metavar="N", help="runs beside an earlier one's load (16)")
    add("--attempts-max", default="64", metavar="N", help="attempts held, not ended (64)")
    add("--events-max", default="512", metavar="N", help="previews, logs and progress queued (512)")
    add("--blob-store", metavar="URL", help="folder or URL for outputs (DATA-DIR/blobs)")
    add("--metrics", default="127.0.0.1:0", metavar="HOST:PORT", help="Prometheus (127.0.0.1:0)")
    add("--label", action="append", default=[], metavar="K=V", help="for placement; repeatable")
    add("--snapshot-store", metavar="DIR", help="local snapshots (DATA-DIR/snapshots)")
    add("--prepare", nargs="*", default=[], metavar="DIGEST", help="snapshots to prepare at start")
    add("--families", default=",".join(NAMES), metavar="NAMES", help="what to run, with commas")
    add("--torch-threads", default="0", metavar="N", help="CPU threads of a run; 0 leaves torch's")
    add("--drain-seconds", default="30", metavar="S", help="for what runs at SIGTERM (30)")
    add("--no-verify", action="store_true", help="load weights without checking their hashes")
    add(
        "--compiled", default="off", metavar="MODE", help="off, use, or build what is missing (off)"
    )
    add("--compiled-cache", metavar="DIR", help="code compiled here (DATA-DIR/compiled)")
    add("--video-codec", default="auto", metavar="NAME", help="in MP4: auto, h264, vp9, av1 (auto)")
    add("--peers", metavar="HOST:PORT", help="let other workers read components here (off)")
    add("--peers-tls", action="store_true", help="by TLS, with the certificate of --tls-cert")
    add("--peers-url", metavar="URL", help="how they reach it (HOST:PORT of --peers)")
    add("--peer-streams", default="16", metavar="N", help="reads by peers at once (16)")
    add("--peer-seconds", default="30", metavar="S", help="for 4 MiB to leave for a peer (30)")
    add("--lora-file-bytes", default="2GiB", metavar="SIZE", help="of a request's LoRA (2GiB)")
    add("--lora-kept-bytes", default="1GiB", metavar="SIZE", help="of LoRAs in memory (1GiB)")
    add("--lora-device-bytes", default="512MiB", metavar="SIZE", help="on the GPU (512MiB)")
    add("--remote-endpoint", metavar="URL", help="of an S3-compatible server ($AWS_ENDPOINT_URL)")
    add("--remote-parallel", default="8", metavar="N", help="ranges fetched at once (8)")
    add("--remote-range-bytes", default="16MiB", metavar="SIZE", help="of one range (16MiB)")
    add("--remote-connect-seconds", default="5", metavar="S", help="to reach a remote (5)")
    add("--remote-read-seconds", default="20", metavar="S", help="of a remote's silence (20)")
    add("--remote-request-seconds", default="120", metavar="S", help="for one range (120)")
    add("--remote-retries", default="5", metavar="N", help="of one range (5)")
    add("--log-level", default="info", help=", ".join(LOG_LEVELS))
    add("--log-json", action="store_true", help="one JSON object a line")
    return parser


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> WorkerSettings:
    """Raises SettingsInvalid naming the flag; `--help` prints and exits as usual."""
    given = _parser().parse_args(list(arguments))
    worker_id = given.worker_id or f"{socket.gethostname()[:40]}-{secrets.token_hex(3)}"
    _must(_NAME.fullmatch(worker_id), "--worker-id", worker_id, "letters, digits, `.`, `_`, `-`")
    data_dir = Path(given.data_dir or Path(".quickthaw", f"worker-{worker_id}")).absolute()
    _must(_DEVICE.fullmatch(given.device), "--device", given.device, "auto, cpu, cuda or cuda:N")
    if given.gpu_type is not None:
        _must(
            _NAME.fullmatch(given.gpu_type), "--gpu-type", given.gpu_type, "a name like h100-80gb"
        )
    modes = ", ".join(COMPILED_MODES)
    _must(given.compiled in COMPILED_MODES, "--compiled", given.compiled, modes)
    codecs = [str(codec) for codec in VideoCodec]
    _must(given.video_codec in codecs, "--video-codec", given.video_codec, ", ".join(codecs))
    _must(given.log_level in LOG_LEVELS, "--log-level", given.log_level, ", ".join(LOG_LEVELS))
    families = tuple(name for name in given.families.split(",") if name)
    for name in families:
        _must(name in NAMES, "--families", name, f"names out of {', '.join(NAMES)}")
    _must(families, "--families", given.families, "at least one name")
    for digest in given.prepare:
        _must(_DIGEST.fullmatch(digest), "--prepare", digest, "the SHA-256 of a manifest")
    scheduler, scheduler_tls = _scheduler(given, environment)
    return WorkerSettings(
        scheduler=scheduler,
        scheduler_tls=scheduler_tls,
        peers_tls=_peers_tls(given, scheduler_tls),
        data_dir=data_dir,
        worker_id=worker_id,
        device=given.device,
        visible_gpus=_visible_gpus(environment),
        gpu_type=given.gpu_type,
        vram_bytes=_size("--vram-bytes", given.vram_bytes),
        pinned_bytes=_size("--pinned-bytes", given.pinned_bytes),
        concurrency=_whole("--concurrency", given.concurrency, 1, 1024),
        batch_max=_whole("--batch-max", given.batch_max, 1, 64),
        ready_max=_whole("--ready-max", given.ready_max, 1, 1024),
        overtakes_max=_whole("--overtakes-max", given.overtakes_max, 0, 1024),
        attempts_max=_whole("--attempts-max", given.attempts_max, 1, 100_000),
        events_max=_whole("--events-max", given.events_max, 1, 100_000),
        blob_store=given.blob_store or str(data_dir / "blobs"),
        metrics=_address("--metrics", given.metrics),
        labels=dict(_label(text) for text in given.label),
        snapshot_store=Path(given.snapshot_store or data_dir / "snapshots").absolute(),
        prepare=tuple(given.prepare),
        families=families,
        torch_threads=_whole("--torch-threads", given.torch_threads, 0, 4096),
        drain_seconds=float(_whole("--drain-seconds", given.drain_seconds, 0, 86_400)),
        verify=not given.no_verify,
        compiled=given.compiled,
        compiled_cache=Path(given.compiled_cache or data_dir / "compiled").absolute(),
        log_level=given.log_level,
        log_json=given.log_json,
        peers=_address("--peers", given.peers) if given.peers else None,
        peers_url=_peers_url(given.peers_url),
        peer_streams=_whole("--peer-streams", given.peer_streams, 1, 1024),
        peer_seconds=float(_whole("--peer-seconds", given.peer_seconds, 1, 3600)),
        remote=_remote(given, environment),
        video_codec=VideoCodec(given.video_codec),
        adapters=AdapterLimits(
            file_bytes_max=_size("--lora-file-bytes", given.lora_file_bytes) or 0,
            kept_bytes_max=_size("--lora-kept-bytes", given.lora_kept_bytes) or 0,
            device_bytes_max=_size("--lora-device-bytes", given.lora_device_bytes) or 0,
        ),
        key=_key(given.key_file, environment),
    )


def _scheduler(
    given: argparse.Namespace, environment: Mapping[str, str]
) -> tuple[Address, TlsFiles | None]:
    try:
        return dialled(given, given.scheduler, environment)
    except SettingsInvalid as error:
        raise SettingsInvalid(f"--scheduler: {error.message}") from error


def _peers_tls(given: argparse.Namespace, scheduler_tls: TlsFiles | None) -> bool:
    if not given.peers_tls:
        return False
    url = given.peers_url or "https://"
    _must(url.startswith("https://"), "--peers-url", url, "https://HOST:PORT with --peers-tls")
    if scheduler_tls is None or scheduler_tls.certificate is None:
        raise SettingsInvalid(
            "--peers-tls needs --tls-cert and --tls-key, and a grpcs:// scheduler: by it peers "
            "learn the token that opens this worker to them"
        )
    return True


def _peers_url(url: str | None) -> str | None:
    if url is None:
        return None
    _must(_PEERS_URL.fullmatch(url), "--peers-url", url, "http://HOST:PORT, as peers reach it")
    return url.rstrip("/")


def _remote(given: argparse.Namespace, environment: Mapping[str, str]) -> RemoteSettings:
    settings = RemoteSettings(
        endpoint=given.remote_endpoint,
        connect_seconds=_whole("--remote-connect-seconds", given.remote_connect_seconds, 1, 3600),
        read_seconds=_whole("--remote-read-seconds", given.remote_read_seconds, 1, 3600),
        request_seconds=_whole("--remote-request-seconds", given.remote_request_seconds, 1, 86_400),
        retries=_whole("--remote-retries", given.remote_retries, 0, 100),
        parallel=_whole("--remote-parallel", given.remote_parallel, 1, 256),
        range_bytes=_size("--remote-range-bytes", given.remote_range_bytes) or 0,
    )
    return settings.from_environment(environment)


def _visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """What CUDA renumbers devices by; None if it shows them all."""
    given = environment.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        return None
    return tuple(name.strip() for name in given.split(",") if name.strip())


def _must(condition: object, flag: str, value: str, wanted: str) -> None:
    if not condition:
        raise SettingsInvalid(f"{flag} is {value!r}; it must be {wanted}")


def _address(flag: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except SettingsInvalid as error:
        raise SettingsInvalid(f"{flag}: {error.message}") from error


def _size(flag: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        size = size_bytes(text)
    except SettingsInvalid as error:
        raise SettingsInvalid(f"{flag}: {error.message}") from error
    _must(size > 0, flag, text, "more than nothing")
    return size


def _whole(flag: str, text: str, minimum: int, maximum: int) -> int:
    wanted = f"a whole number from {minimum} to {maximum}"
    _must(text.isdecimal() and minimum <= int(text) <= maximum, flag, text, wanted)
    return int(text)


def _label(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    _must(separator and _NAME.fullmatch(name), "--label", text, "NAME=VALUE")
    return name, value


def _key(path: str | None, environment: Mapping[str, str]) -> str:
    if path is None:
        key = environment.get("QUICKTHAW_KEY", "").strip()
        _must(key, "--key-file", "", "the path of a file with a key, or $QUICKTHAW_KEY set")
        return key
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsInvalid(f"--key-file {path!r} cannot be read: {error}") from error
    _must(key and key.isascii() and " " not in key, "--key-file", path, "a file with one key")
    return key


def from_process(arguments: Sequence[str]) -> WorkerSettings:
    return parse(arguments, os.environ)
