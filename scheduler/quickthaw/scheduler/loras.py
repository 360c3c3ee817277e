"""LoRAs that an input names by the id of a model: looked up as the caller sees the catalog.

`loras` is a list of `{path, scale}` (fal's). Files in it were left in the blob store by a gateway
or are inside the input; every other path is a model. The journal keeps its name, so that nobody is
told where snapshots lie; a worker is told what the name means when the request is placed there.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from quickthaw.scheduler.catalog import Catalog
from quickthaw.scheduler.views import RequestView
from quickthaw.wire import errors

# Values of an input, which have no better type: see `inputs`.
Json = Any

PLACES_MAX: Final = 10_000
"""LoRAs of which is known where they were last."""
_IN_TEXT: Final = '"loras"'
_STORED: Final = re.compile(r"blob:loras/[A-Za-z0-9_-]{43}|data:.*", re.DOTALL)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


def check_loras(
    completed: Mapping[str, Json], catalog: Catalog, tenant: str, allowed: Callable[[str], object]
) -> None:
    """Raises InvalidInput for a path that is neither a file nor a model that `tenant` sees.

    `allowed` raises PermissionDenied for a model that the caller's key is not for.
    """
    if "loras" not in completed:
        return
    violations: list[errors.FieldViolation] = []
    for index, path in _paths(completed):
        try:
            if not _STORED.fullmatch(path):
                allowed(_model_id(catalog, path, tenant))
        except (errors.ModelNotFound, errors.InvalidArgument) as error:
            field = f"input.loras[{index}].path"
            violations.append(errors.FieldViolation(field, error.message))
    if violations:
        told = "; ".join(f"{line.field}: {line.description}" for line in violations)
        raise errors.InvalidInput(told, violations=tuple(violations))


def _model_id(catalog: Catalog, path: str, tenant: str) -> str:
    if _SCHEME.match(path):
        raise errors.InvalidArgument(
            "is no file that is here already: send the request through a gateway, which fetches "
            "URLs, or a small file as data:application/octet-stream;base64,..."
        )
    return catalog.get(path, tenant).spec.id


def _paths(completed: Mapping[str, Json]) -> Iterator[tuple[int, str]]:
    loras = completed["loras"]
    if isinstance(loras, list):
        for index, each in enumerate(loras):
            if isinstance(each, dict) and isinstance(each.get("path"), str):
                yield index, each["path"]


class LoraPlaces:
    """What LoRAs mean to workers, and which worker was given each last: it may have it still."""

    def __init__(self, catalog: Catalog, places_max: int = PLACES_MAX) -> None:
        self._catalog = catalog
        self._places_max = places_max
        self._places: OrderedDict[str, str] = OrderedDict()

    def input_for(self, view: RequestView, worker_id: str) -> str:
        """The input of a request as its worker is given it."""
        if _IN_TEXT not in view.input_json:
            return view.input_json
        value = json.loads(view.input_json)
        if "loras" not in value:
            return view.input_json
        for _, path in _paths(value):
            self._note(path, worker_id)
        return _filled_in(view, value, self._catalog)

    def hint(self, completed: Mapping[str, Json]) -> str:
        """The worker that an input's LoRAs are nearest to: that of the first one that is known."""
        if "loras" not in completed:
            return ""
        known = (self._places.get(path) for _, path in _paths(completed))
        return next((worker_id for worker_id in known if worker_id), "")

    def _note(self, path: str, worker_id: str) -> None:
        if path.startswith("data:"):
            return  # It costs little, and may be a megabyte long.
        self._places[path] = worker_id
        self._places.move_to_end(path)
        if len(self._places) > self._places_max:
            self._places.popitem(last=False)


def _filled_in(view: RequestView, value: dict[str, Json], catalog: Catalog) -> str:
    changed = False
    for index, path in _paths(value):
        if _STORED.fullmatch(path):
            continue
        try:
            spec = catalog.get(path, view.tenant).spec
        except errors.ModelNotFound:
            continue  # It is gone since: the worker says that there is no such thing.
        value["loras"][index]["path"] = f"snapshot:{spec.snapshot_digest}@{spec.snapshot_uri}"
        changed = True
    return json.dumps(value, ensure_ascii=False) if changed else view.input_json
