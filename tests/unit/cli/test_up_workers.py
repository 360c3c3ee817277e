"""How many workers, on which devices, told what."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from quickthaw.cli.up import workers
from quickthaw.cli.up.devices import visible_gpus
from quickthaw.cli.up.settings import UpSettings
from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from quickthaw.wire.tls_settings import ServerTls

ANY = Address("127.0.0.1", 0)


def settings(**options: Any) -> UpSettings:
    return UpSettings(data_dir=Path("/data"), http=ANY, grpc=ANY, metrics=ANY, **options)


def test_one_worker_for_each_gpu_and_one_where_there_is_none() -> None:
    assert workers.devices(settings(), gpus=2) == ("cuda:0", "cuda:1")
    assert workers.devices(settings(), gpus=0) == ("cpu",)
    assert workers.devices(settings(device="cpu", workers=3), gpus=2) == ("cpu",) * 3


def test_a_gpu_is_shared_only_if_each_workers_part_is_stated() -> None:
    with pytest.raises(SettingsInvalid, match="--vram-bytes"):
        workers.devices(settings(workers=2), gpus=1)
    shared = settings(workers=2, vram_bytes="20GiB")
    assert workers.devices(shared, gpus=1) == ("cuda:0", "cuda:0")


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(SettingsInvalid, match="no GPU"):
        workers.devices(settings(device="cuda"), gpus=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "--workers 0"),
        ({"device": "tpu"}, "auto, cpu, cuda"),
        ({"log_level": "loud"}, "debug, info, warning, error"),
        ({"fleet": "k8s"}, "local, ray"),
        ({"prices": Path("/no/prices.toml")}, "no such file"),
    ],
)
def test_a_setting_that_cannot_work_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsInvalid, match=message):
        settings(**options)


def test_a_worker_is_told_where_everything_is() -> None:
    (spec,) = workers.specs(
        settings(vram_bytes="2GiB", pinned_bytes="1GiB"), 0, "127.0.0.1:7", prepare=("f" * 64,)
    )
    arguments = spec.arguments(spec.key_file)
    told = dict(zip(arguments[::2], arguments[1::2], strict=True))
    assert told["--scheduler"] == "127.0.0.1:7"
    assert told["--key-file"] == "/data/worker.key"
    assert told["--snapshot-store"] == "/data/snapshots"
    assert told["--blob-store"] == "/data/blobs"
    assert told["--vram-bytes"] == "2GiB"
    assert told["--pinned-bytes"] == "1GiB"
    assert told["--prepare"] == "f" * 64


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 2),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "1"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "0,-1,1"}, 1),
    ],
)
def test_gpus_are_counted_as_cuda_would(
    tmp_path: Path, environ: dict[str, str], expected: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert visible_gpus(environ, tmp_path) == expected


def test_addresses_that_others_read_in_plain_text_are_named_with_what_mends_it() -> None:
    everywhere = Address("0.0.0.0", 7070)
    plain = UpSettings(data_dir=Path("/data"), metrics=ANY, http=everywhere, grpc=everywhere)
    told = plain.exposed
    assert told.startswith("plain text on --grpc 0.0.0.0:7070 and --http 0.0.0.0:7070:")
    assert "--tls-cert FILE --tls-key FILE" in told
    assert not replace(plain, tls=ServerTls(Path("/c"), Path("/k"))).exposed
    assert not settings().exposed
