from __future__ import annotations

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quickthaw.gateway.links import Links, load_key, load_secret
from quickthaw.wire.errors import ArtifactNotFound, SettingsInvalid

URI = "artifacts/req-1/picture 0 ü.png"


def parts_of(url: str) -> tuple[str, str]:
    _, _, path = url.partition("/files/")
    signature, _, rest = path.partition("/")
    return signature, rest


def test_a_link_leads_back_to_its_artifact() -> None:
    links = Links(b"s" * 32, "https://gpu.example/base")
    url = links.url(URI)
    assert url.startswith("https://gpu.example/base/files/")
    assert url.isascii()
    signature, _ = parts_of(url)
    assert links.uri(signature, "req-1/picture 0 ü.png") == URI


def test_another_secret_or_another_file_has_another_signature() -> None:
    signature, _ = parts_of(Links(b"s" * 32, "").url(URI))
    with pytest.raises(ArtifactNotFound):
        Links(b"t" * 32, "").uri(signature, "req-1/picture 0 ü.png")
    with pytest.raises(ArtifactNotFound):
        Links(b"s" * 32, "").uri(signature, "req-1/other.png")


@given(st.text(), st.text())
def test_no_text_passes_for_a_signature(signature: str, rest: str) -> None:
    with pytest.raises(ArtifactNotFound):
        Links(b"s" * 32, "").uri(signature, rest)


@pytest.mark.parametrize("uri", ["", "artifacts/", "elsewhere/req-1/0.png"])
def test_only_artifacts_get_links(uri: str) -> None:
    with pytest.raises(ArtifactNotFound):
        Links(b"s" * 32, "").url(uri)


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "links.secret"
    secret = load_secret(path)
    assert load_secret(path) == secret
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["links.secret"]
    assert load_secret(None) != load_secret(None)


@pytest.mark.parametrize("content", ["", "zz", "00ff", "ü"])
def test_a_damaged_secret_refuses_to_start(tmp_path: Path, content: str) -> None:
    path = tmp_path / "links.secret"
    path.write_text(content)
    with pytest.raises(SettingsInvalid, match=r"links\.secret"):
        load_secret(path)


def test_a_secret_that_cannot_be_made_refuses_to_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsInvalid, match="cannot be made"):
        load_secret(tmp_path / "file" / "links.secret")


def test_a_key_file_holds_one_key(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    with pytest.raises(SettingsInvalid, match="cannot be read"):
        load_key(path)
    path.write_text("\n")
    with pytest.raises(SettingsInvalid, match="empty"):
        load_key(path)
    path.write_text("qt_a_b\n")
    assert load_key(path) == "Key qt_a_b"
    assert load_key(None) == ""
