"""What a deployment is and how it goes from state to state. Pure: time is an argument."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

STEP_CHARS_MAX = 200
FAILURE_CHARS_MAX = 2_000
RETRY_DELAY_MS = 5_000
"""Between a try that failed for a reason that may pass and the next one."""


class DeploymentState(Enum):
    WAITING = "waiting"
    PACKING = "packing"
    TESTING = "testing"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"


OPEN = frozenset({DeploymentState.WAITING, DeploymentState.PACKING, DeploymentState.TESTING})


@dataclass(frozen=True, slots=True)
class DeploymentFile:
    """An uploaded file and its place in what is deployed."""

    path: str
    file_id: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class DeploymentSpec:
    """What was asked for. `quickthaw.v1.DeploymentSpec` says what each field means."""

    model: str
    files: tuple[DeploymentFile, ...]
    base: str = ""
    family: str = ""
    defaults_json: str = ""
    test_json: str = ""
    component: str = ""
    dtype: str = ""
    quantize: str = ""
    scale: float = 0.0
    title: str = ""
    license: str = ""
    visibility: str = ""
    """A `Visibility`'s value; empty: private if it is new, else as it is."""
    by_admin: bool = False
    """Who asked may change models that are not its tenant's."""

    @property
    def size_bytes(self) -> int:
        return sum(each.size_bytes for each in self.files)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DeploymentSpec:
        values: dict[str, Any] = json.loads(text)
        files = tuple(DeploymentFile(**each) for each in values.pop("files"))
        return cls(files=files, **values)


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a try failed; `retryable`: the same may succeed later."""

    reason: str
    message: str
    retryable: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is, and in the end what became of it."""

    step: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    failure_reason: str = ""
    """Of the last try; empty if it did not fail."""
    failure_message: str = ""
    version: int = 0
    snapshot_digest: str = ""
    self_test_request_id: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Progress:
        values: Mapping[str, Any] = json.loads(text)
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Deployment:
    """`due_ms`: before which nobody leases it, be it for its lease or for its next try."""

    deployment_id: str
    tenant: str
    spec: DeploymentSpec
    state: DeploymentState
    created_ms: int
    updated_ms: int
    attempts: int = 0
    due_ms: int = 0
    lease_id: str = field(default="", repr=False)
    finished_ms: int = 0
    progress: Progress = field(default_factory=Progress)

    @property
    def open(self) -> bool:
        return self.state in OPEN


def leased(deployment: Deployment, lease_id: str, now_ms: int, until_ms: int) -> Deployment:
    """It begins anew, whatever an earlier try came to; why that failed stays to be seen."""
    before = deployment.progress
    return replace(
        deployment,
        state=DeploymentState.PACKING,
        attempts=deployment.attempts + 1,
        lease_id=lease_id,
        due_ms=until_ms,
        updated_ms=now_ms,
        progress=Progress(
            failure_reason=before.failure_reason, failure_message=before.failure_message
        ),
    )


def progressed(
    deployment: Deployment,
    state: DeploymentState,
    progress: Progress,
    now_ms: int,
    until_ms: int,
) -> Deployment:
    before = deployment.progress
    return replace(
        deployment,
        state=state,
        due_ms=until_ms,
        updated_ms=now_ms,
        progress=replace(
            progress,
            failure_reason=before.failure_reason,
            failure_message=before.failure_message,
            self_test_request_id=progress.self_test_request_id or before.self_test_request_id,
        ),
    )


def failed(
    deployment: Deployment,
    reason: str,
    message: str,
    now_ms: int,
    *,
    retryable: bool,
    attempts_max: int,
) -> Deployment:
    """Ended, or waiting for its next try."""
    again = retryable and deployment.attempts < attempts_max
    return replace(
        deployment,
        state=DeploymentState.WAITING if again else DeploymentState.FAILED,
        lease_id="",
        due_ms=now_ms + RETRY_DELAY_MS if again else 0,
        updated_ms=now_ms,
        finished_ms=0 if again else now_ms,
        progress=replace(
            deployment.progress,
            failure_reason=reason,
            failure_message=message[:FAILURE_CHARS_MAX],
        ),
    )


def lost(deployment: Deployment, now_ms: int, attempts_max: int) -> Deployment:
    """Its last lease ran out without a word, and there are no tries left."""
    return failed(
        deployment,
        "ATTEMPTS_EXHAUSTED",
        f"{deployment.attempts} packers were lost while they had it, the last one while "
        f"{deployment.progress.step or 'starting'}: it may need more memory than a packer has; "
        "ask the platform's operators, or deploy smaller files",
        now_ms,
        retryable=False,
        attempts_max=attempts_max,
    )


def registered(deployment: Deployment, version: int, digest: str, now_ms: int) -> Deployment:
    return replace(
        deployment,
        state=DeploymentState.READY,
        lease_id="",
        due_ms=0,
        updated_ms=now_ms,
        finished_ms=now_ms,
        progress=replace(
            deployment.progress,
            step="",
            failure_reason="",
            failure_message="",
            version=version,
            snapshot_digest=digest,
        ),
    )


def cancelled(deployment: Deployment, now_ms: int) -> Deployment:
    return replace(
        deployment,
        state=DeploymentState.CANCELLED,
        lease_id="",
        due_ms=0,
        updated_ms=now_ms,
        finished_ms=now_ms,
    )
