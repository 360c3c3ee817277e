"""Every error that crosses a boundary of Quickthaw, as one tree.

    QuickthawError
    ├── InvalidArgument            the caller must change the call
    │   ├── InvalidInput           a model's input does not fit its schema
    │   ├── SnapshotInvalid        a snapshot breaks the format (truncated, hostile, unsafe)
    │   └── SettingsInvalid        a process was started with settings that cannot work
    ├── Unauthenticated            no key, or one that is unknown, expired or revoked
    ├── PermissionDenied           the key is known but lacks the scope
    ├── NotFound
    │   ├── ModelNotFound
    │   ├── RequestNotFound
    │   ├── WorkerNotFound
    │   ├── KeyNotFound
    │   ├── ArtifactNotFound
    │   └── WebhookNotFound
    ├── AlreadyExists              the name is taken, or an idempotency key was reused differently
    ├── FailedPrecondition         right call, wrong moment or place
    │   ├── ModelCannotFit         no attached worker could ever hold the model
    │   ├── ModelQuarantined       this version of the model failed wherever it was tried
    │   └── AddressInUse           a port that a process was told to listen on is taken
    ├── ResourceExhausted          over a limit; `retry_delay_seconds` says when to try again
    │   ├── QueueFull
    │   ├── MessageTooLarge
    │   ├── BudgetExhausted
    │   └── StorageFull            the disk under the journal or the blob store is full
    ├── DeadlineExpired            the request did not end before its own deadline
    │   └── StartTimeout           no worker had begun it in the time that its caller allowed
    ├── RequestCancelled           somebody cancelled it
    ├── Unavailable                not reachable or shutting down; safe to try again
    │   └── StoreUnavailable       the journal's database does not answer
    ├── SnapshotCorrupt            bytes differ from the manifest's checksum
    ├── ArtifactCorrupt            bytes differ from the digest in the request's record
    └── Internal                   our fault
        ├── EngineFailed           the model's code raised
        ├── AttemptsExhausted      every worker that tried it was lost
        └── PoisonRequest          it ended the process of every worker that tried it

A leaf's `reason` is the machine-readable code: `ErrorInfo.reason` on the wire, `Failure.reason` in
a request's record, the `reason` label of the error metrics. `quickthaw.wire.status` maps each class
to its gRPC status. This module imports nothing, so that every part may use it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One thing wrong with one argument; `field` is a path such as `input.image_size.width`.

    `kind`: a word for programs, and `limits_json` what was exceeded, as a JSON object; both may be
    empty.
    """

    field: str
    description: str
    kind: str = ""
    limits_json: str = ""


class QuickthawError(Exception):
    """Base of the tree.

    `message` names the thing, what is wrong and what to do, for a person. `metadata` carries the
    same facts for programs (short keys and values, at most 16 of them). `retry_delay_seconds` is
    set where a later identical call may succeed.
    """

    reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        violations: tuple[FieldViolation, ...] = (),
        retry_delay_seconds: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.violations = violations
        self.retry_delay_seconds = retry_delay_seconds
        self.metadata = metadata or {}


class InvalidArgument(QuickthawError):
    reason = "INVALID_ARGUMENT"


class InvalidInput(InvalidArgument):
    reason = "INVALID_INPUT"


class SnapshotInvalid(InvalidArgument):
    reason = "SNAPSHOT_INVALID"


class SettingsInvalid(InvalidArgument):
    reason = "SETTINGS_INVALID"


class Unauthenticated(QuickthawError):
    reason = "UNAUTHENTICATED"


class PermissionDenied(QuickthawError):
    reason = "PERMISSION_DENIED"


class NotFound(QuickthawError):
    reason = "NOT_FOUND"


class ModelNotFound(NotFound):
    reason = "MODEL_NOT_FOUND"


class RequestNotFound(NotFound):
    reason = "REQUEST_NOT_FOUND"


class WorkerNotFound(NotFound):
    reason = "WORKER_NOT_FOUND"


class KeyNotFound(NotFound):
    reason = "KEY_NOT_FOUND"


class ArtifactNotFound(NotFound):
    reason = "ARTIFACT_NOT_FOUND"


class WebhookNotFound(NotFound):
    reason = "WEBHOOK_NOT_FOUND"


class AlreadyExists(QuickthawError):
    reason = "ALREADY_EXISTS"


class FailedPrecondition(QuickthawError):
    reason = "FAILED_PRECONDITION"


class ModelCannotFit(FailedPrecondition):
    reason = "MODEL_CANNOT_FIT"


class ModelQuarantined(FailedPrecondition):
    reason = "MODEL_QUARANTINED"


class AddressInUse(FailedPrecondition):
    reason = "ADDRESS_IN_USE"


class ResourceExhausted(QuickthawError):
    reason = "RESOURCE_EXHAUSTED"


class QueueFull(ResourceExhausted):
    reason = "QUEUE_FULL"


class MessageTooLarge(ResourceExhausted):
    reason = "MESSAGE_TOO_LARGE"


class BudgetExhausted(ResourceExhausted):
    reason = "BUDGET_EXHAUSTED"


class StorageFull(ResourceExhausted):
    reason = "STORAGE_FULL"


class DeadlineExpired(QuickthawError):
    reason = "DEADLINE_EXPIRED"


class StartTimeout(DeadlineExpired):
    reason = "START_TIMEOUT"


class RequestCancelled(QuickthawError):
    reason = "CANCELLED"


class Unavailable(QuickthawError):
    reason = "UNAVAILABLE"


class StoreUnavailable(Unavailable):
    reason = "STORE_UNAVAILABLE"


class SnapshotCorrupt(QuickthawError):
    reason = "SNAPSHOT_CORRUPT"


class ArtifactCorrupt(QuickthawError):
    reason = "ARTIFACT_CORRUPT"


class Internal(QuickthawError):
    reason = "INTERNAL"


class EngineFailed(Internal):
    reason = "ENGINE_FAILED"


class AttemptsExhausted(Internal):
    reason = "ATTEMPTS_EXHAUSTED"


class PoisonRequest(Internal):
    reason = "POISON_REQUEST"


def _tree(root: type[QuickthawError]) -> list[type[QuickthawError]]:
    return [root, *(found for child in root.__subclasses__() for found in _tree(child))]


BY_REASON: dict[str, type[QuickthawError]] = {
    error.reason: error for error in _tree(QuickthawError) if error is not QuickthawError
}


def error_for_reason(reason: str, message: str) -> QuickthawError:
    """The error that `reason` names, so that a failure read back from a record can be raised.

    A reason from a newer peer is not lost: it becomes `Internal` with the reason in its metadata.
    """
    if (error := BY_REASON.get(reason)) is not None:
        return error(message)
    return Internal(message, metadata={"reason": reason})
