"""From a URL to a remote."""

from __future__ import annotations

from urllib.parse import urlsplit

from quickthaw.snapshot.remote.base import Remote, RemoteSettings
from quickthaw.snapshot.remote.http import HttpRemote
from quickthaw.snapshot.remote.objects import SCHEMES, ObjectRemote
from quickthaw.wire.errors import SettingsInvalid


def open_remote(url: str, settings: RemoteSettings | None = None) -> Remote:
    """A place to read from: `s3://`, `gs://`, `az://`, `http(s)://`, `file://` or a folder's path.

    Raises `SettingsInvalid` for anything else and for URLs with credentials in them, and `NotFound`
    for a folder that is not there. Nothing is asked of a server yet.
    """
    settings = settings or RemoteSettings()
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        return HttpRemote(url, settings)
    _check_known(url, scheme)
    return ObjectRemote(url, settings)


def open_writable(url: str, settings: RemoteSettings | None = None) -> ObjectRemote:
    """A place to push to and to list. Raises as `open_remote`, and for web servers."""
    scheme = urlsplit(url).scheme
    if scheme in ("http", "https"):
        raise SettingsInvalid(
            f"{url[:200]}: a web server can only be read from; push to s3://, gs://, az:// or a "
            "folder"
        )
    _check_known(url, scheme)
    return ObjectRemote(url, settings or RemoteSettings(), writing=True)


def _check_known(url: str, scheme: str) -> None:
    if scheme and scheme not in SCHEMES:
        raise SettingsInvalid(
            f"{url[:200]!r} has a scheme that is not known; known are {', '.join(SCHEMES)}, http "
            "and https"
        )
