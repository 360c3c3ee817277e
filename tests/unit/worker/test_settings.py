"""A worker's command line: sensible defaults, and bad values refuse to start by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from quickthaw.wire.errors import SettingsInvalid
from quickthaw.wire.process import Address
from quickthaw.worker.device import choose_device
from quickthaw.worker.settings import WorkerSettings, parse, size_bytes

KEY = {"QUICKTHAW_KEY": "qt_a_b"}
GIB = 1 << 30


def settings(*flags: str) -> WorkerSettings:
    return parse(["--scheduler", "127.0.0.1:7070", *flags], KEY)


def test_defaults_need_only_a_scheduler_and_a_key() -> None:
    given = settings("--data-dir", "/srv/w")
    assert given.scheduler == Address("127.0.0.1", 7070)
    assert given.key == "qt_a_b"
    assert given.snapshot_store == Path("/srv/w/snapshots")
    assert given.blob_store == "/srv/w/blobs"
    assert (given.device, given.concurrency, given.verify) == ("auto", 1, True)
    assert given.worker_id
    assert settings().worker_id != settings().worker_id


def test_every_flag_is_taken() -> None:
    given = settings(
        *("--worker-id", "w-1", "--gpu-type", "h100-80gb", "--vram-bytes", "8GiB"),
        *("--pinned-bytes", "512MiB", "--concurrency", "2", "--label", "zone=a=b", "--label", "x="),
        *("--prepare", "a" * 64, "b" * 64, "--families", "noop,sd", "--metrics", ":9100"),
        *("--log-level", "debug", "--log-json", "--drain-seconds", "5", "--no-verify"),
    )
    assert (given.vram_bytes, given.pinned_bytes) == (8 * GIB, GIB // 2)
    assert given.labels == {"zone": "a=b", "x": ""}
    assert given.prepare == ("a" * 64, "b" * 64)
    assert given.families == ("noop", "sd")
    assert (given.log_level, given.log_json, given.verify) == ("debug", True, False)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("12", 12),
        ("1kb", 1000),
        ("1 KiB", 1024),
        ("1.5GiB", 3 * GIB // 2),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--vram-bytes", "lots"], "--vram-bytes: 'lots' is no size"),
        (["--vram-bytes", "0"], "--vram-bytes is '0'"),
        (["--pinned-bytes", "-1"], "--pinned-bytes"),
        (["--concurrency", "0"], "--concurrency is '0'"),
        (["--concurrency", "two"], "--concurrency is 'two'"),
        (["--device", "tpu"], "--device is 'tpu'"),
        (["--label", "zone"], "--label is 'zone'"),
        (["--prepare", "abc"], "--prepare is 'abc'"),
        (["--families", "sd,dalle"], "--families is 'dalle'"),
        (["--families", ""], "--families is ''"),
        (["--metrics", "nowhere"], "--metrics: 'nowhere' is no address"),
        (["--log-level", "loud"], "--log-level is 'loud'"),
        (["--worker-id", "a/b"], "--worker-id is 'a/b'"),
        (["--gpu-type", "a b"], "--gpu-type is 'a b'"),
        (["--key-file", "/nowhere/key"], "--key-file '/nowhere/key' cannot be read"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_a_bad_value_is_refused_and_the_flag_named(flags: list[str], named: str) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        settings(*flags)
    assert named in refused.value.message


def test_a_worker_without_a_key_says_where_to_put_one() -> None:
    with pytest.raises(SettingsInvalid, match=r"--key-file .* \$QUICKTHAW_KEY"):
        parse(["--scheduler", "127.0.0.1:7070"], {})


def test_the_key_file_goes_before_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("qt_from_file\n")
    assert settings("--key-file", str(path)).key == "qt_from_file"
    path.write_text("two keys\n")
    with pytest.raises(SettingsInvalid, match="--key-file"):
        settings("--key-file", str(path))


def test_a_cpu_worker_offers_a_part_of_the_machines_memory() -> None:
    choice = choose_device(settings("--device", "cpu"), lambda name: None, 16 * GIB)
    assert (choice.kind, choice.gpu_type) == ("cpu", "cpu")
    assert choice.vram_bytes == 4 * GIB
    assert 0 < choice.pinned_bytes <= GIB


def test_auto_is_the_cpu_where_there_is_no_gpu() -> None:
    assert choose_device(settings(), lambda name: None, 16 * GIB).kind == "cpu"


def test_a_gpu_that_is_not_there_is_refused_with_what_to_do() -> None:
    with pytest.raises(SettingsInvalid, match="--device is 'cuda:3', but NVML finds no such GPU"):
        choose_device(settings("--device", "cuda:3"), lambda name: None, 16 * GIB)


def test_a_gpu_that_nvml_does_not_see_can_be_described_by_hand() -> None:
    flags = ("--device", "cuda:1", "--gpu-type", "l4", "--vram-bytes", "20GiB")
    choice = choose_device(settings(*flags), lambda name: None, 16 * GIB)
    assert (choice.kind, choice.index, choice.gpu_type) == ("cuda", 1, "l4")


@pytest.mark.parametrize(
    ("visible", "device", "asked"),
    [
        (None, "cuda:1", ["1"]),
        ("3,5", "cuda:1", ["5"]),
        ("GPU-abc", "auto", ["GPU-abc"]),
        ("", "auto", []),
        ("-1", "auto", []),
    ],
)
def test_nvml_is_asked_for_the_device_that_cuda_means(
    visible: str | None, device: str, asked: list[str]
) -> None:
    environment = KEY if visible is None else {**KEY, "CUDA_VISIBLE_DEVICES": visible}
    flags = ["--scheduler", ":1", "--device", device, "--gpu-type", "l4", "--vram-bytes", "1GiB"]
    names: list[str] = []
    choose_device(parse(flags, environment), names.append, 16 * GIB)
    assert names == asked
