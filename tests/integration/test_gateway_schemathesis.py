"""The gateway's own OpenAPI documents against a whole platform: what schemathesis makes of them,
right and wrong, is answered as they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks

from quickthaw.gateway.openapi import gateway_document
from support.platform import Platform, running_platform

OWNER, NAME = "quickthaw", "shapes"
LACKING = (501, 503)
"""All that a whole gateway may answer from 500 on: it lacks something, and says so."""
FEW = settings(
    max_examples=6,  # of each operation: there are dozens
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

# A string: the class is generic for the type checkers only.
Case: TypeAlias = "schemathesis.Case[Any]"
schema = schemathesis.openapi.from_dict(dict(gateway_document("http://127.0.0.1")))


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(tmp_path_factory.mktemp("platform")) as platform:
        yield platform


def answered_well(case: Case, platform: Platform, key: str) -> None:
    answer = case.call_and_validate(
        base_url=platform.ready["http"],
        headers={"authorization": f"Bearer {key}"},
        checks=[
            checks.status_code_conformance,
            checks.content_type_conformance,
            checks.response_schema_conformance,
        ],
        timeout=100,
    )
    assert answer.status_code < 500 or answer.status_code in LACKING, answer.text
    assert key not in answer.text


@schema.parametrize()
@FEW
def test_every_operation_answers_as_the_document_says(case: Case, platform: Platform) -> None:
    # Made-up names alone would never get past the lookup of the model.
    path = case.path_parameters
    # Not to delete it, or there would be none for the others.
    if "owner" in path and len(str(path["owner"])) % 2 and case.method != "DELETE":
        path |= {"owner": OWNER, "name": NAME}
    answered_well(case, platform, platform.key)


@schema.include(path_regex="^/(run|queue|openai|replicate)/").parametrize()
@FEW
def test_with_a_wrong_key_every_operation_refuses(case: Case, platform: Platform) -> None:
    answered_well(case, platform, "qt_wrong_key")
