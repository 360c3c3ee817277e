"""The catalog: what may be registered, and how a name finds its model."""

from __future__ import annotations

import pytest

from quickthaw.scheduler.catalog import Catalog, CatalogModel, check_model
from quickthaw.scheduler.convert.models import catalog_model, model_message
from quickthaw.v1 import catalog_pb2
from quickthaw.wire import errors
from support.schedulers import a_model


def registered(*ids: str) -> Catalog:
    catalog = Catalog(models_max=10)
    catalog.load(catalog_model(a_model(model_id), 1) for model_id in ids)
    return catalog


def test_a_model_is_found_by_id_and_by_alias() -> None:
    catalog = registered("test/tiny", "test/other")
    assert catalog.get("test/tiny") is catalog.get("tiny")


def test_an_unknown_model_names_near_ones_and_says_how_to_list() -> None:
    with pytest.raises(errors.ModelNotFound) as caught:
        registered("quickthaw/shapes", "test/tiny").get("quickthaw/shape")
    assert "did you mean quickthaw/shapes" in caught.value.message
    assert "ListModels" in caught.value.message


def test_a_name_of_megabytes_is_not_echoed() -> None:
    with pytest.raises(errors.ModelNotFound) as caught:
        registered("test/tiny").get("x" * 1_000_000)
    assert len(caught.value.message) < 1_000


def test_a_document_reads_back_as_the_same_model() -> None:
    model = catalog_model(a_model(), 7)
    again = CatalogModel.from_document(model.document_json, 7)
    assert again == model
    assert again.version == model.version
    assert model_message(again) == model_message(model)


def test_the_version_does_not_depend_on_when_it_was_registered() -> None:
    assert catalog_model(a_model(), 1).version == catalog_model(a_model(), 2).version


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": "no-owner"}, "model.id"),
        ({"id": "Owner/Name"}, "model.id"),
        ({"id": "a/b/c/d"}, "model.id"),
        ({"id": "a/" + "b" * 300}, "model.id"),
        ({"aliases": ["Upper"]}, "model.aliases[0]"),
        ({"aliases": ["twice", "twice"]}, "model.aliases"),
        ({"aliases": [f"a{n}" for n in range(40)]}, "model.aliases"),
        ({"family": ""}, "model.family"),
        ({"snapshot_digest": "abc"}, "model.snapshot_digest"),
        ({"snapshot_digest": "AB" * 32}, "model.snapshot_digest"),
        ({"snapshot_uri": "relative/path"}, "model.snapshot_uri"),
        ({"working_bytes": -1}, "model.working_bytes"),
        ({"components": []}, "model.components"),
        ({"components": [catalog_pb2.Component(digest="x")]}, "model.components[0].digest"),
        ({"input_schema_json": "{"}, "model.input_schema_json"),
    ],
)
def test_a_model_that_cannot_work_is_refused_by_field(
    change: dict[str, object], field: str
) -> None:
    message = a_model()
    for name, value in change.items():
        if isinstance(value, list):
            repeated = getattr(message, name)
            del repeated[:]
            repeated.extend(value)
        else:
            setattr(message, name, value)
    with pytest.raises(errors.InvalidArgument) as caught:
        check_model(catalog_model(message, 1))
    assert field in {each.field for each in caught.value.violations}


def test_a_name_belongs_to_one_model() -> None:
    catalog = registered("test/tiny")
    thief = a_model("test/thief")
    thief.aliases.append("tiny")
    with pytest.raises(errors.AlreadyExists, match="'tiny' already names"):
        catalog.check_names(catalog_model(thief, 1))
    thief.aliases[:] = ["test/tiny"]
    with pytest.raises(errors.AlreadyExists):
        catalog.check_names(catalog_model(thief, 1))


def test_a_replaced_model_gives_up_the_aliases_that_it_no_longer_has() -> None:
    catalog = registered("test/tiny")
    renamed = a_model("test/tiny")
    renamed.aliases[:] = ["small"]
    catalog.put(catalog_model(renamed, 2))
    assert catalog.get("small").spec.id == "test/tiny"
    with pytest.raises(errors.ModelNotFound):
        catalog.get("tiny")


def test_a_full_catalog_takes_replacements_only() -> None:
    catalog = Catalog(models_max=1)
    catalog.load([catalog_model(a_model("test/tiny"), 1)])
    catalog.check_names(catalog_model(a_model("test/tiny"), 2))
    with pytest.raises(errors.ResourceExhausted):
        catalog.check_names(catalog_model(a_model("test/more"), 2))
