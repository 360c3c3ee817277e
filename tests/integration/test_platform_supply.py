"""Copies that are kept whatever the traffic, with every real part: nobody asks, and it is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quickthaw.client import Client, Component, Model, ModelEndpoint, RequestState, Tier
from quickthaw.wire.errors import ModelQuarantined, QuickthawError
from support.platform import Platform, running_platform, until

SMALL = ("--vram-bytes", "512MiB", "--pinned-bytes", "128MiB")
MODEL = "quickthaw/shapes"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with running_platform(tmp_path_factory.mktemp("data"), *SMALL) as started:
        yield started


def resident(client: Client) -> list[str]:
    return [model for worker in client.workers.list() for model in worker.resident_models]


async def test_an_endpoint_with_a_copy_of_its_own_is_warm_before_its_first_request(
    platform: Platform,
) -> None:
    with platform.client() as client:
        assert MODEL not in resident(client)
        wanted = ModelEndpoint(MODEL, min_replicas=1)
        assert client.endpoints.set(MODEL, wanted, ("min_replicas",)).min_replicas == 1
        await until(lambda: MODEL in resident(client), "the prefetch")
        assert client.endpoints.get(MODEL).replicas == 1
        first = client.run(MODEL, {"prompt": "a red circle", "seed": 7})
        assert first.state is RequestState.SUCCEEDED, platform.logs()
        assert first.receipt is not None
        assert first.receipt.start_tier is Tier.VRAM


def a_model_whose_files_are_nowhere() -> Model:
    return Model(
        id="test/nowhere",
        family="sd",
        snapshot_digest="ab" * 32,
        snapshot_uri="/nowhere/snapshots",
        components=(Component("unet", "cd" * 32, 1_000),),
        working_bytes=0,
        input_schema={"type": "object"},
    )


async def test_a_model_that_loads_nowhere_is_quarantined_and_says_why(platform: Platform) -> None:
    with platform.client() as client:
        model = client.models.register(a_model_whose_files_are_nowhere()).model.id
        for _ in range(3):
            with pytest.raises(QuickthawError, match="is no folder"):
                client.run(model, {})
        with pytest.raises(ModelQuarantined, match="load failed 3 times") as caught:
            client.run(model, {})
        assert "quickthaw endpoint release" in caught.value.message
        shown = client.endpoints.get(model).quarantine
        assert shown is not None
        assert "is no folder" in shown.reason
        assert client.endpoints.release(model).quarantine is None
        with pytest.raises(QuickthawError, match="is no folder"):
            client.run(model, {})
