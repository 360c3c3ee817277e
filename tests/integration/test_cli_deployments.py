"""`quickthaw deployments`, against a platform that a test plays."""

from __future__ import annotations

import json

import pytest

from quickthaw.v1 import deployments_pb2, types_pb2
from quickthaw.wire.errors import NotFound
from support.command_line import Quickthaw
from support.fake_platform import FakePlatform

ID = "dep_01m83d61qnb2saaf6wrz59"
DEPLOYMENT = deployments_pb2.Deployment(
    deployment_id=ID,
    tenant="me",
    spec=deployments_pb2.DeploymentSpec(
        model="me/style",
        base="shapes",
        files=[
            deployments_pb2.DeploymentFile(
                path="style.safetensors", file_id="0" * 48, size_bytes=151_336
            )
        ],
        defaults_json='{"num_inference_steps": 2}',
    ),
    state=deployments_pb2.DEPLOYMENT_STATE_PACKING,
    step="packing [red]unet",
    done_bytes=25,
    total_bytes=100,
    attempts=1,
    created_unix_ms=1_700_000_000_000,
)


@pytest.fixture(autouse=True)
def scripts(platform: FakePlatform) -> None:
    ended = deployments_pb2.Deployment()
    ended.CopyFrom(DEPLOYMENT)
    ended.state = deployments_pb2.DEPLOYMENT_STATE_CANCELLED
    platform.scripts |= {
        "DeploymentsList": lambda _: deployments_pb2.ListDeploymentsResponse(
            deployments=[DEPLOYMENT]
        ),
        "DeploymentsGet": lambda _: DEPLOYMENT,
        "DeploymentsCancel": lambda _: ended,
    }


def test_deployments_are_listed_with_how_far_they_are(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    told = quickthaw("deployments", "list", "--state", "packing")
    assert told.status == 0
    for word in (ID, "me/style", "packing", "packing [red]unet 25%"):
        assert word in told.out
    (asked,) = platform.calls("DeploymentsList")
    assert list(asked.states) == [deployments_pb2.DEPLOYMENT_STATE_PACKING]
    listed = json.loads(quickthaw("deployments", "--json").out)
    assert listed[0]["spec"]["defaults"] == {"num_inference_steps": 2}


def test_one_is_shown_with_its_files_and_why_it_failed(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    assert "style.safetensors, 147.8 KiB" in quickthaw("deployments", "show", ID).out
    failed = deployments_pb2.Deployment()
    failed.CopyFrom(DEPLOYMENT)
    failed.state = deployments_pb2.DEPLOYMENT_STATE_FAILED
    failed.failure.CopyFrom(types_pb2.Failure(reason="SNAPSHOT_INVALID", message="cut [b]short"))
    platform.scripts["DeploymentsGet"] = lambda _: failed
    assert "SNAPSHOT_INVALID: cut [b]short" in quickthaw("deployments", "show", ID).out


def test_a_long_reason_takes_one_line_of_the_list_and_shows_that_it_was_cut(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    failed = deployments_pb2.Deployment()
    failed.CopyFrom(DEPLOYMENT)
    failed.failure.CopyFrom(types_pb2.Failure(message="does not fit:\n\t" + "layer, " * 40))
    platform.scripts["DeploymentsList"] = lambda _: deployments_pb2.ListDeploymentsResponse(
        deployments=[failed]
    )
    (row,) = [line for line in quickthaw("deployments").out.splitlines() if ID in line]
    assert "does not fit: layer, " in row
    assert "…" in row


def test_one_is_cancelled_and_one_that_is_not_there_is_named(
    quickthaw: Quickthaw, platform: FakePlatform
) -> None:
    assert f"{ID} is cancelled" in quickthaw("deployments", "cancel", ID).out

    def gone(_: object) -> None:
        raise NotFound(f"there is no deployment {ID!r}")

    platform.scripts["DeploymentsGet"] = gone
    told = quickthaw("deployments", "show", ID)
    assert told.status == 1
    assert ID in told.err


def test_a_state_that_is_none_is_a_mistake_of_the_caller(quickthaw: Quickthaw) -> None:
    told = quickthaw("deployments", "list", "--state", "lost")
    assert told.status == 2
    assert "cancelled" in told.err
