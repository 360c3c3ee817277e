"""Any exception of a load, a run or a store as the `Failure` in the request's record."""

from __future__ import annotations

import logging
import secrets

from quickthaw.wire import errors
from quickthaw.worker.attempts import Failure

logger = logging.getLogger(__name__)

MESSAGE_CHARS_MAX = 2000

# The same request may succeed later or on another worker. Everything else would fail again.
_RETRYABLE = (errors.ResourceExhausted, errors.Unavailable)


def failure_from(error: BaseException, attempt_id: str) -> Failure:
    """Errors of the tree keep their reason; anything else is told opaquely and logged in full."""
    if isinstance(error, errors.QuickthawError):
        return Failure(
            error.reason,
            error.message[:MESSAGE_CHARS_MAX],
            isinstance(error, _RETRYABLE),
            error.violations,
        )
    incident = secrets.token_hex(6)
    logger.error("attempt %s: incident %s", attempt_id, incident, exc_info=error)
    return Failure(
        errors.Internal.reason,
        f"internal error; the worker's log has the details under incident {incident}",
    )
