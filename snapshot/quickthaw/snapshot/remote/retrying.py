"""Trying again: bounded in number and in time, later each time."""

from __future__ import annotations

import time
from collections.abc import Callable
from random import Random

from quickthaw.snapshot.remote.base import RemoteSettings
from quickthaw.wire.errors import StoreUnavailable

Clock = Callable[[], float]
Sleep = Callable[[float], None]


class Transient(Exception):
    """Worth another try; the text says what happened. `delay_seconds` is the server's wish."""

    def __init__(self, what: str, delay_seconds: float | None = None) -> None:
        super().__init__(what)
        self.delay_seconds = delay_seconds


class Tries:
    """The tries of one range."""

    def __init__(
        self,
        settings: RemoteSettings,
        name: str,
        *,
        clock: Clock = time.monotonic,
        sleep: Sleep = time.sleep,
        random: Random | None = None,
    ) -> None:
        self._settings = settings
        self._name = name
        self._clock = clock
        self._sleep = sleep
        self._random = random or Random()
        self._began = clock()
        self._failed = 0

    def failed(self, error: Transient) -> None:
        """Returns when it is time to try again; raises `StoreUnavailable` if it never is."""
        settings = self._settings
        ceiling = min(settings.backoff_seconds * 2**self._failed, settings.backoff_cap_seconds)
        self._failed += 1
        wait = ceiling * self._random.uniform(0.5, 1.0)
        if error.delay_seconds is not None:
            wait = min(max(wait, error.delay_seconds), settings.backoff_cap_seconds)
        spent = self._clock() - self._began
        if self._failed > settings.retries or spent + wait > settings.retry_seconds:
            raise StoreUnavailable(
                f"{self._name}: {error}; gave up after {self._failed} tries in {spent:.1f} s. "
                "Check the network and the server, then repeat: what has arrived is kept",
                metadata={"remote": self._name},
            ) from error
        self._sleep(wait)
