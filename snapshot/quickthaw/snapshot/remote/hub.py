"""Pipelines on the Hugging Face Hub, as folders to pack: `hf:owner/repo[@revision]`.

Only what the pipeline's index names is fetched, and of that only safetensors and the configuration
beside them: nothing that could run by being read, and no second set of the same weights. Where to
and with whose token is the library's own business (`HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN`), and so is
going on where a connection broke.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from quickthaw.snapshot.fields import parse_object
from quickthaw.wire.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    StorageFull,
    StoreUnavailable,
)

PREFIX = "hf:"
_NAME = re.compile(r"hf:([\w.-]{1,96}/[\w.-]{1,96})(?:@([\w./-]{1,128}))?\Z", re.ASCII)
_PART = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_INDEX = "model_index.json"
_IN_A_PART = ("*.json", "*.safetensors", "merges.txt", "vocab.txt", "spiece.model")
IGNORED = (
    "*.fp16.safetensors",
    "*.fp16-*.safetensors",
    "*.bf16.safetensors",
    "*.non_ema.safetensors",
    "*/*flax*",
    ".*",
)
"""Variants of weights that are there in full as well."""


def is_hub_name(source: str) -> bool:
    return source.startswith(PREFIX)


def fetch_pipeline(source: str) -> Path:
    """The folder that the repository was fetched to; what the library has already stays.

    Raises `InvalidArgument` for a name that is none, `NotFound`, `PermissionDenied` for a gated or
    private repository, `StoreUnavailable`, `StorageFull`, or `FailedPrecondition` without the
    library.
    """
    found = _NAME.match(source)
    if found is None:
        raise InvalidArgument(f"{source[:200]!r} is no hub name; write hf:OWNER/REPO[@REVISION]")
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import hf_hub_download, snapshot_download
    except ImportError as error:
        raise FailedPrecondition(
            f"{source}: reading from the hub needs huggingface_hub; install it, or download the "
            "folder by other means and pack that"
        ) from error
    try:
        index = Path(hf_hub_download(found[1], _INDEX, revision=found[2]))
        return Path(
            snapshot_download(
                found[1],
                # The commit that the index is of, should the branch move on meanwhile.
                revision=index.parent.name,
                allow_patterns=[_INDEX, *_patterns(index.read_bytes(), source)],
                ignore_patterns=list(IGNORED),
            )
        )
    except (hub.GatedRepoError, hub.RepositoryNotFoundError) as error:
        if isinstance(error, hub.GatedRepoError) or _status(error) in (401, 403):
            raise PermissionDenied(
                f"{source}: the hub does not show it to you; it may not exist, or ask for consent: "
                "accept its terms there and set HF_TOKEN"
            ) from None  # the library's text quotes addresses and request ids
        raise NotFound(f"{source}: the hub has no such repository") from None
    except hub.RevisionNotFoundError:
        raise NotFound(f"{source}: the repository has no such revision") from None
    except hub.RemoteEntryNotFoundError:
        raise InvalidArgument(
            f"{source}: has no {_INDEX}, so it is no diffusers pipeline; look for a repository of "
            "the same model whose name ends in -Diffusers, or pack a file with --base"
        ) from None
    except hub.LocalEntryNotFoundError:
        raise StoreUnavailable(
            f"{source}: the hub cannot be reached; check the network, or HF_ENDPOINT, and repeat"
        ) from None
    except hub.HfHubHTTPError as error:
        raise StoreUnavailable(
            f"{source}: the hub answered HTTP {_status(error)}; repeat"
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise StorageFull(
                f"{source}: {error.strerror} while writing what was fetched"
            ) from error
        raise StoreUnavailable(f"{source}: the hub cannot be reached; repeat") from None


def _patterns(index: bytes, source: str) -> Iterator[str]:
    """Of the files of a pipeline's parts: a repository may hold the same weights in other forms,
    or other models beside it."""
    for name, kinds in parse_object(index, f"{source}, {_INDEX}").items():
        # A part's library and class; both are null for a part that the pipeline goes without.
        if _PART.fullmatch(name) and isinstance(kinds, list) and all(kinds):
            yield from (f"{name}/{pattern}" for pattern in _IN_A_PART)


def _status(error: Exception) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0))
