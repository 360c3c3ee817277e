"""Replicate's two-part names and its version ids, for models of ours.

A model of ours may have a third part, `fal-ai/flux/schnell`, which these clients refuse: it is
called `fal-ai/flux-schnell` here. A version id is a digest of the model's id and its snapshot's, so
that a prediction's version can be told from its record alone, for as long as that is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from quickthaw.gateway.context import Gateway
from quickthaw.gateway.ids import try_endpoint_id
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.replicate.errors import invalid
from quickthaw.v1 import catalog_pb2
from quickthaw.wire.errors import ModelNotFound

LOOKUPS_MAX = 8
"""Hyphens of a name that may have been a slash."""
_VERSION_CHARS = 64


def replicate_name(model_id: str) -> str:
    owner, _, rest = model_id.partition("/")
    return f"{owner}/{rest.replace('/', '-')}"


def version_id(model_id: str, snapshot_digest: str) -> str:
    text = f"quickthaw model version 1\n{model_id}\n{snapshot_digest}"
    return hashlib.sha256(text.encode()).hexdigest()


async def find_model(gateway: Gateway, credential: Credential, name: str) -> catalog_pb2.Model:
    """By `owner/name`, an alias or an id with its last slash as a hyphen. Raises ModelNotFound."""
    for candidate in _candidates(name):
        if try_endpoint_id(candidate) is None:
            continue
        try:
            return await gateway.platform.model(credential, candidate)
        except ModelNotFound:
            continue
    raise ModelNotFound(f"there is no model {name[:200]!r}")


def _candidates(name: str) -> Iterator[str]:
    yield name
    owner, _, rest = name.partition("/")
    if "/" in rest:
        return
    at = -1
    for _ in range(LOOKUPS_MAX):
        at = rest.find("-", at + 1)
        if at < 0:
            return
        yield f"{owner}/{rest[:at]}/{rest[at + 1 :]}"


async def find_version(gateway: Gateway, credential: Credential, text: str) -> catalog_pb2.Model:
    """`ID`, `owner/name:ID` or `owner/name`. Raises HttpError 422 for no version of this platform's
    models as they are now."""
    name, _, wanted = text.rpartition(":") if ":" in text else ("", "", text)
    if "/" in wanted:
        name, wanted = wanted, ""
    if name:
        try:
            found = await find_model(gateway, credential, name)
        except ModelNotFound as error:
            raise invalid("version", f"there is no model {name[:200]!r}") from error
        if wanted in ("", version_id(found.id, found.snapshot_digest)):
            return found
    elif len(wanted) == _VERSION_CHARS:
        for model in await gateway.platform.listed_models(credential):
            if version_id(model.id, model.snapshot_digest) == wanted:
                return model
    raise invalid("version", f"there is no version {text[:200]!r} any more, or there never was one")
