"""Thresholds that were crossed, for the log."""

from __future__ import annotations

import logging

from quickthaw.scheduler.core.accounts import Alert
from quickthaw.scheduler.core.pricing import dollars

logger = logging.getLogger(__name__)


def log_alert(alert: Alert) -> None:
    logger.warning(
        "the account %s has used %d %% of its %s: %s of %s",
        alert.account,
        alert.percent,
        alert.kind.value,
        dollars(alert.used_nanodollars),
        dollars(alert.limit_nanodollars),
    )
