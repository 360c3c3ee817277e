"""Which environment variables point an unmodified client at a platform."""

from __future__ import annotations

import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from quickthaw.cli.errors import UsageFault
from quickthaw.client.settings import RunFile, default_data_dir, read_key_file
from quickthaw.wire.errors import SettingsInvalid, Unavailable

CA_BYTES_MAX = 64 * 1024
FETCH_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Place:
    """A platform as its HTTP callers see it, and what vouches for it."""

    url: str
    """Without a trailing slash."""
    key: str
    tls_folder: Path
    """Holds `ca.pem` and `bundle.pem`."""


def find_place(data_dir: Path | None, environ: Mapping[str, str] = os.environ) -> Place:
    """The platform of `data_dir`, or that of QUICKTHAW_URL and QUICKTHAW_KEY, whose authority's
    certificate is fetched.

    Raises Unavailable if no platform is named or answers, SettingsInvalid for what cannot be read.
    """
    url = environ.get("QUICKTHAW_URL") if data_dir is None else None
    folder = data_dir or default_data_dir(environ)
    run_file = RunFile.read(folder)
    if url is None or (run_file is not None and url == run_file.http):
        if run_file is None:
            raise Unavailable(
                f"no platform is running in {folder}: start one with `quickthaw up`, or name "
                "another with QUICKTHAW_URL=http://HOST:PORT and QUICKTHAW_KEY"
            )
        key = environ.get("QUICKTHAW_KEY") or read_key_file(run_file.key_file)
        return Place(run_file.http, key, folder / "tls")
    key = environ.get("QUICKTHAW_KEY", "")
    if not key:
        raise SettingsInvalid(f"no key for {url}: set QUICKTHAW_KEY")
    return Place(url.rstrip("/"), key, _fetched_authority(url.rstrip("/"), environ))


def _fetched_authority(url: str, environ: Mapping[str, str]) -> Path:
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "quickthaw" / "tls" / urlsplit(url).netloc.replace(":", "_")
    try:
        with urllib.request.urlopen(f"{url}/ca.pem", timeout=FETCH_SECONDS) as answer:
            pem = answer.read(CA_BYTES_MAX)
        ssl.create_default_context(cadata=pem.decode("ascii"))
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise Unavailable(f"{url}/ca.pem gives no certificate to trust: {error}") from error
    import certifi

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(pem)
    (folder / "bundle.pem").write_bytes(pem + Path(certifi.where()).read_bytes())
    return folder


def _fal(place: Place) -> dict[str, str]:
    """fal's clients have https and their hosts in their code; a CONNECT to them ends here."""
    if urlsplit(place.url).scheme != "http":
        raise UsageFault(
            f"{place.url} is https, and clients reach a proxy by plain HTTP",
            "name the gateway's own address in QUICKTHAW_URL",
        )
    return {
        "FAL_KEY": place.key,
        "HTTPS_PROXY": place.url,
        # Python's clients replace their roots by these, Node's add to theirs.
        "SSL_CERT_FILE": str(place.tls_folder / "bundle.pem"),
        "NODE_EXTRA_CA_CERTS": str(place.tls_folder / "ca.pem"),
        "NODE_USE_ENV_PROXY": "1",
    }


def _openai(place: Place) -> dict[str, str]:
    return {"OPENAI_BASE_URL": f"{place.url}/openai/v1", "OPENAI_API_KEY": place.key}


def _replicate(place: Place) -> dict[str, str]:
    # Its Node client has no variable for the URL: there `baseUrl` is this one with `/v1`.
    return {
        "REPLICATE_BASE_URL": f"{place.url}/replicate",
        "REPLICATE_API_TOKEN": place.key,
    }


CLIENTS: Mapping[str, Callable[[Place], dict[str, str]]] = {
    "fal": _fal,
    "openai": _openai,
    "replicate": _replicate,
}


def check_client(client: str) -> None:
    """Raises UsageFault for a client that is not known."""
    if client not in CLIENTS:
        raise UsageFault(f"no client {client!r}", f"known are: {', '.join(CLIENTS)}")


def variables(client: str, place: Place) -> dict[str, str]:
    """Raises UsageFault for a client that is not known."""
    check_client(client)
    return CLIENTS[client](place)
