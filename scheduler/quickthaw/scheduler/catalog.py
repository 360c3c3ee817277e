"""The models that can be asked for: checked when registered, found by near names."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quickthaw.scheduler.core.model import (
    DEFAULT_ENDPOINT,
    Component,
    Digest,
    EndpointSettings,
    ModelId,
    ModelSpec,
)
from quickthaw.scheduler.inputs import InputSchema
from quickthaw.wire import errors

NAME_CHARS_MAX = 200
ALIASES_MAX = 32
COMPONENTS_MAX = 256
NEAR_NAMES_MAX = 500
_ID = re.compile(r"[a-z0-9._-]+/[a-z0-9._-]+(/[a-z0-9._-]+)?")
_ALIAS = re.compile(r"[a-z0-9._-]+(/[a-z0-9._-]+){0,3}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """One registered model. `version` names its content; equal content has an equal version."""

    spec: ModelSpec
    aliases: tuple[str, ...]
    input_schema_json: str
    description: str
    license: str
    registered_unix_ms: int = 0
    version: str = field(default="", compare=False)

    @property
    def document_json(self) -> str:
        """Everything but when it was registered; what `version` hashes and the store keeps."""
        spec = self.spec
        return json.dumps(
            {
                "id": spec.id,
                "family": spec.family,
                "snapshot_digest": spec.snapshot_digest,
                "snapshot_uri": spec.snapshot_uri,
                "components": [
                    {"digest": c.digest, "size_bytes": c.size_bytes, "name": c.name}
                    for c in spec.components
                ],
                "working_bytes": spec.working_bytes,
                "aliases": list(self.aliases),
                "input_schema_json": self.input_schema_json,
                "description": self.description,
                "license": self.license,
            },
            sort_keys=True,
        )

    @classmethod
    def from_document(cls, document_json: str, registered_unix_ms: int) -> CatalogModel:
        """From `document_json`, which the store keeps as it was written."""
        document = json.loads(document_json)
        spec = ModelSpec(
            id=ModelId(document["id"]),
            family=document["family"],
            snapshot_digest=document["snapshot_digest"],
            snapshot_uri=document["snapshot_uri"],
            components=tuple(
                Component(Digest(c["digest"]), c["size_bytes"], c["name"])
                for c in document["components"]
            ),
            working_bytes=document["working_bytes"],
        )
        return cls(
            spec=spec,
            aliases=tuple(document["aliases"]),
            input_schema_json=document["input_schema_json"],
            description=document["description"],
            license=document["license"],
            registered_unix_ms=registered_unix_ms,
            version=hash_document(document_json),
        )


def hash_document(document_json: str) -> str:
    return hashlib.sha256(document_json.encode()).hexdigest()


def check_model(model: CatalogModel) -> InputSchema:
    """Raises InvalidArgument with every violation; the compiled schema if there is none."""
    spec = model.spec
    wrong: list[errors.FieldViolation] = []

    def require(holds: bool, name: str, description: str) -> None:
        if not holds:
            wrong.append(errors.FieldViolation(f"model.{name}", description))

    require(
        _ID.fullmatch(spec.id) is not None and len(spec.id) <= NAME_CHARS_MAX,
        "id",
        f"must be owner/name[/variant] of a-z, 0-9, '.', '_' and '-', not {spec.id!r}",
    )
    require(len(model.aliases) <= ALIASES_MAX, "aliases", f"at most {ALIASES_MAX}")
    for index, alias in enumerate(model.aliases[:ALIASES_MAX]):
        require(
            _ALIAS.fullmatch(alias) is not None and len(alias) <= NAME_CHARS_MAX,
            f"aliases[{index}]",
            f"must be segments of a-z, 0-9, '.', '_' and '-', not {alias!r}",
        )
    require(len(set(model.aliases)) == len(model.aliases), "aliases", "names one twice")
    require(bool(spec.family), "family", "is required, for example 'sdxl'")
    digest_help = "must be 64 lower-case hex digits (SHA-256)"
    # A family without weights, such as `noop`, has neither snapshot nor components.
    weightless = not (spec.snapshot_digest or spec.snapshot_uri or spec.components)
    require(
        weightless or _SHA256.fullmatch(spec.snapshot_digest) is not None,
        "snapshot_digest",
        digest_help,
    )
    require(
        weightless or spec.snapshot_uri.startswith("/") or "://" in spec.snapshot_uri,
        "snapshot_uri",
        "must be an absolute path or an object-store URL",
    )
    require(spec.working_bytes >= 0, "working_bytes", "must not be negative")
    count = len(spec.components)
    require(
        weightless or 1 <= count <= COMPONENTS_MAX, "components", f"must be 1 to {COMPONENTS_MAX}"
    )
    for index, part in enumerate(spec.components[:COMPONENTS_MAX]):
        require(
            _SHA256.fullmatch(part.digest) is not None, f"components[{index}].digest", digest_help
        )
        require(part.size_bytes >= 0, f"components[{index}].size_bytes", "must not be negative")
    schema: InputSchema | None = None
    try:
        schema = InputSchema(model.input_schema_json)
    except errors.InvalidArgument as error:
        wrong.extend(error.violations)
    if wrong or schema is None:
        told = "; ".join(f"{each.field} {each.description}" for each in wrong[:3])
        raise errors.InvalidArgument(
            f"the model cannot be registered: {told}", violations=tuple(wrong)
        )
    return schema


class Catalog:
    """What is registered now. Belongs to the event loop; `models_max` bounds it."""

    def __init__(self, models_max: int) -> None:
        self._models_max = models_max
        self._models: dict[str, CatalogModel] = {}
        self._ids_by_alias: dict[str, str] = {}
        self._schemas: dict[str, InputSchema] = {}
        self._endpoints: dict[str, EndpointSettings] = {}

    def load(self, models: Iterable[CatalogModel]) -> None:
        for model in models:
            self.put(model)

    def __len__(self) -> int:
        return len(self._models)

    def models(self) -> Mapping[str, CatalogModel]:
        return self._models

    def endpoint(self, model_id: str) -> EndpointSettings:
        """How the model is served; the defaults if nothing was set."""
        return self._endpoints.get(model_id, DEFAULT_ENDPOINT)

    def set_endpoint(self, model_id: str, settings: EndpointSettings) -> None:
        self._endpoints[model_id] = settings

    def visible(self, model_id: str, tenant: str | None) -> bool:
        """`tenant`: who asks; None for an operator, who sees everything."""
        return tenant is None or self.endpoint(model_id).visible_to(tenant)

    def check_names(self, model: CatalogModel) -> None:
        """Raises AlreadyExists if a name belongs to another model, ResourceExhausted if full."""
        for name in (model.spec.id, *model.aliases):
            owner = self._ids_by_alias.get(name, name if name in self._models else None)
            if owner is not None and owner != model.spec.id:
                raise errors.AlreadyExists(
                    f"{name!r} already names the model {owner!r}; remove it there first"
                )
        if model.spec.id not in self._models and len(self._models) >= self._models_max:
            raise errors.ResourceExhausted(
                f"the catalog is full with {self._models_max} models; remove some"
            )

    def put(self, model: CatalogModel) -> None:
        """In place of an earlier version, whose endpoint it keeps."""
        self._forget(model.spec.id)
        self._models[model.spec.id] = model
        for alias in model.aliases:
            self._ids_by_alias[alias] = model.spec.id

    def remove(self, model_id: str) -> None:
        """With its endpoint."""
        self._forget(model_id)
        self._endpoints.pop(model_id, None)

    def _forget(self, model_id: str) -> None:
        if (model := self._models.pop(model_id, None)) is not None:
            for alias in model.aliases:
                del self._ids_by_alias[alias]
            self._schemas.pop(model.version, None)

    def get(self, name: str, tenant: str | None = None) -> CatalogModel:
        """By id or alias, as `tenant` sees the catalog (None: all of it). Raises ModelNotFound,
        with near names; a model that is not for this tenant is not there, nor is its name."""
        model = self._models.get(self._ids_by_alias.get(name, name))
        if model is not None and self.visible(model.spec.id, tenant):
            return model
        # Bounded, because comparing a name with every other is slow and the loop is shared.
        names = (
            known
            for known in (*self._models, *self._ids_by_alias)
            if self.visible(self._ids_by_alias.get(known, known), tenant)
        )
        known = itertools.islice(names, NEAR_NAMES_MAX)
        near = difflib.get_close_matches(name[:NAME_CHARS_MAX], known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise errors.ModelNotFound(
            f"there is no model {name[:NAME_CHARS_MAX]!r}; {hint}Catalog.ListModels or "
            "`quickthaw models` lists what there is",
            metadata={"model": name[:NAME_CHARS_MAX]},
        )

    def schema(self, model: CatalogModel) -> InputSchema:
        """Compiled once for each registered version."""
        schema = self._schemas.get(model.version)
        if schema is None:
            schema = self._schemas[model.version] = InputSchema(model.input_schema_json)
        return schema
