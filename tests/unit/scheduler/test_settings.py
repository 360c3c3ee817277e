"""The scheduler's flags: what is wrong is named, and nothing starts."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from quickthaw.scheduler.__main__ import main
from quickthaw.scheduler.bootstrap import core_settings
from quickthaw.scheduler.core.numbers import names
from quickthaw.scheduler.core.settings import CoreSettings
from quickthaw.scheduler.prices import load_prices, parse_prices
from quickthaw.scheduler.settings import Limits, parse_settings
from quickthaw.wire.errors import SettingsInvalid


def test_a_data_directory_is_enough(tmp_path: Path) -> None:
    settings = parse_settings(["--data-dir", str(tmp_path)], {})
    assert settings.store_url == f"sqlite:///{tmp_path}/quickthaw.db"
    assert settings.blob_store == f"{tmp_path}/blobs"
    assert settings.limits == Limits()


def one_less(name: str) -> int:
    """A value that is allowed and not the default, where there is one below it."""
    minimum = {each.name: each.metadata["minimum"] for each in dataclasses.fields(Limits)}[name]
    return max(int(minimum), int(getattr(Limits(), name)) - 1)


def test_every_limit_is_a_flag(tmp_path: Path) -> None:
    flags = ["--data-dir", str(tmp_path)]
    for each in dataclasses.fields(Limits):
        value = one_less(each.name)
        flags += ["--" + each.name.replace("_", "-"), str(value)]
    limits = parse_settings(flags, {}).limits
    for each in dataclasses.fields(Limits):
        assert getattr(limits, each.name) == one_less(each.name)


def test_a_number_of_the_core_reaches_the_core(tmp_path: Path) -> None:
    flags = ["--data-dir", str(tmp_path), "--core", "queue_ahead=5", "--core", "bypass_max=7"]
    core = core_settings(parse_settings(flags, {}), {})
    assert (core.placement.queue_ahead, core.bypass_max) == (5, 7)


@pytest.mark.parametrize("name", names(CoreSettings()))
def test_each_number_of_the_core_has_one_flag(tmp_path: Path, name: str) -> None:
    flags = ["--data-dir", str(tmp_path), "--core", f"{name}=1"]
    plain = core_settings(parse_settings(flags[:2], {}), {})
    try:
        settings = parse_settings(flags, {})
    except SettingsInvalid as refused:
        flag = refused.message.rpartition(" use ")[2]
        assert flag[2:].replace("-", "_") in {each.name for each in dataclasses.fields(Limits)}
    else:
        assert names(core_settings(settings, {})) == {**names(plain), name: 1}


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--queue-max", "0"], "--queue-max '0'"),
        (["--queue-max", "many"], "--queue-max 'many'"),
        (["--lease-ms", "-1"], "--lease-ms"),
        (["--lease-ms", "1000", "--heartbeat-interval-ms", "900"], "--heartbeat-interval-ms"),
        (["--grpc", "nowhere"], "--grpc"),
        (["--metrics", "host:99999"], "--metrics"),
        (["--prices", "/no/such/file.toml"], "--prices"),
        (["--log-level", "loud"], "--log-level"),
        (["--tenant-class", "acme"], "--tenant-class"),
        (["--tenant-concurrency", "acme=many"], "--tenant-concurrency 'acme=many'"),
        (["--queue", "5"], "--queue"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_a_bad_flag_is_named_and_refuses_to_start(
    flags: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data-dir", str(tmp_path / "data"), *flags]
    with pytest.raises(SettingsInvalid) as caught:
        parse_settings(arguments, {})
    assert named in caught.value.message
    assert main(arguments) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_the_data_directory_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--data-dir" in capsys.readouterr().err


def test_a_password_may_come_from_the_environment(tmp_path: Path) -> None:
    url = "postgresql://user:secret@host/db"
    flags = ["--data-dir", str(tmp_path)]
    assert parse_settings(flags, {"QUICKTHAW_STORE": url}).store_url == url
    both = parse_settings([*flags, "--store", "sqlite:////x"], {"QUICKTHAW_STORE": url})
    assert both.store_url == "sqlite:////x"


def test_the_packaged_prices_load_and_have_a_version() -> None:
    prices = load_prices(None)
    assert prices.version
    assert 0 < prices.rate("cpu") < prices.rate("h100-80gb")
    assert prices.rate("never-heard-of") == prices.default_rate_nanodollars_per_second


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("version = ", "is not TOML"),
        ("default_rate_nanodollars_per_second = 1", "version"),
        ('version = "1"', "default_rate_nanodollars_per_second"),
        (
            'version = "1"\ndefault_rate_nanodollars_per_second = 1\n'
            "[rates_nanodollars_per_second]\ncpu = 1.5",
            "line 4: rates_nanodollars_per_second.cpu must be a whole number",
        ),
        (
            'version = "1"\ndefault_rate_nanodollars_per_second = -1',
            "default_rate_nanodollars_per_second",
        ),
        ('version = "1"\ndefault_rate = 1', "line 2: default_rate is no key"),
    ],
)
def test_a_price_table_that_cannot_be_meant_is_refused(toml: str, words: str) -> None:
    with pytest.raises(SettingsInvalid, match=words):
        parse_prices(toml, "--prices x.toml")
