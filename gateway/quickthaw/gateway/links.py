"""Links to stored files: good for whoever holds one, impossible to guess or to alter.

`<public>/files/<signature>/<request id>/<name>`: the signature is an HMAC of the artifact's URI, so
that any replica with the same secret serves any replica's links and nothing is stored for them. A
link is a capability for one file for as long as the platform keeps it; logs must not hold it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from urllib.parse import quote

from quickthaw.wire.errors import ArtifactNotFound, SettingsInvalid

SECRET_BYTES = 32
_SIGNATURE_BYTES = 24
_PURPOSE = b"quickthaw file link 1\n"
_ARTIFACTS = "artifacts"


class Links:
    def __init__(self, secret: bytes, public_url: str) -> None:
        self._secret = secret
        self._public_url = public_url

    def url(self, uri: str) -> str:
        """The public URL of an artifact, `uri` being `artifacts/<request id>/<name>`."""
        root, _, rest = uri.partition("/")
        if root != _ARTIFACTS or not rest:
            raise ArtifactNotFound(f"{uri!r} is no artifact's URI: it starts with {_ARTIFACTS}/")
        return f"{self._public_url}/files/{self._signature(uri)}/{quote(rest)}"

    def uri(self, signature: str, rest: str) -> str:
        """The artifact that a link's path names. Raises ArtifactNotFound unless we signed it."""
        uri = f"{_ARTIFACTS}/{rest}"
        if not hmac.compare_digest(self._signature(uri).encode(), signature.encode()):
            raise ArtifactNotFound("no such file: the link is incomplete, altered or outlived")
        return uri

    def _signature(self, uri: str) -> str:
        digest = hmac.digest(self._secret, _PURPOSE + uri.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest[:_SIGNATURE_BYTES]).decode()


def load_secret(path: Path | None) -> bytes:
    """The signing secret of `path`, made with mode 0600 if missing. Raises SettingsInvalid."""
    if path is None:
        return secrets.token_bytes(SECRET_BYTES)
    if not path.exists():
        _create_once(path)
    try:
        secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise SettingsInvalid(f"the link secret {path} cannot be read: {error}") from error
    if len(secret) != SECRET_BYTES:
        raise SettingsInvalid(
            f"the link secret {path} holds {len(secret)} bytes and not {SECRET_BYTES}: delete it "
            "to have a new one made (links given out so far die)"
        )
    return secret


def _create_once(path: Path) -> None:
    """Written whole under another name and linked: of several gateways starting, one wins."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(SECRET_BYTES) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass  # Another gateway made it first; its secret is ours too.
        finally:
            draft.unlink()
    except OSError as error:
        raise SettingsInvalid(f"the link secret {path} cannot be made: {error}") from error


def load_key(path: Path | None) -> str:
    """The gateway's own key as `authorization` metadata carries it; empty if it has none."""
    if path is None:
        return ""
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise SettingsInvalid(f"the key file {path} cannot be read: {error}") from error
    if not key:
        raise SettingsInvalid(f"the key file {path} is empty: it holds one key, qt_<id>_<secret>")
    return f"Key {key}"
