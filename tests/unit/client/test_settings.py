"""Where the platform and its key are found."""

import json
from pathlib import Path

import pytest

from quickthaw.client import Endpoint, find_endpoint
from quickthaw.wire.errors import SettingsInvalid, Unauthenticated, Unavailable


def a_data_dir(tmp_path: Path, grpc: str = "127.0.0.1:7070") -> Path:
    key_file = tmp_path / "admin.key"
    key_file.write_text("qt_local_secret\n")
    (tmp_path / "run.json").write_text(
        json.dumps({"grpc": grpc, "http": "h", "metrics": "m", "key_file": str(key_file), "pid": 1})
    )
    return tmp_path


def test_arguments_go_before_everything(tmp_path: Path) -> None:
    environ = {"QUICKTHAW_GRPC": "other:1", "QUICKTHAW_KEY": "other"}
    found = find_endpoint("here:7", "mine", a_data_dir(tmp_path), environ)
    assert found == Endpoint("here:7", "mine")


def test_the_environment_names_a_platform_elsewhere() -> None:
    environ = {"QUICKTHAW_GRPC": "gpu-box:7070", "QUICKTHAW_KEY": "k", "QUICKTHAW_DATA_DIR": "/no"}
    assert find_endpoint(environ=environ) == Endpoint("gpu-box:7070", "k")


def test_without_configuration_the_local_platform_is_found(tmp_path: Path) -> None:
    environ = {"QUICKTHAW_DATA_DIR": str(a_data_dir(tmp_path))}
    assert find_endpoint(environ=environ) == Endpoint("127.0.0.1:7070", "qt_local_secret")


def test_a_data_dir_that_is_named_goes_before_the_environment(tmp_path: Path) -> None:
    environ = {"QUICKTHAW_GRPC": "other:1", "QUICKTHAW_KEY": "other"}
    found = find_endpoint(data_dir=a_data_dir(tmp_path), environ=environ)
    assert found == Endpoint("127.0.0.1:7070", "qt_local_secret")


def test_the_local_admin_key_is_never_sent_to_another_address(tmp_path: Path) -> None:
    environ = {"QUICKTHAW_DATA_DIR": str(a_data_dir(tmp_path)), "QUICKTHAW_GRPC": "elsewhere:7070"}
    with pytest.raises(Unauthenticated, match="elsewhere:7070"):
        find_endpoint(environ=environ)


def test_no_platform_is_an_error_that_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="quickthaw up"):
        find_endpoint(environ={"QUICKTHAW_DATA_DIR": str(tmp_path)})


def test_a_broken_run_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(SettingsInvalid, match=r"run\.json"):
        find_endpoint(data_dir=tmp_path, environ={})


def test_tls_is_asked_for_in_the_address() -> None:
    assert find_endpoint("grpcs://box:443", "k", environ={}) == Endpoint("box:443", "k", tls=True)
