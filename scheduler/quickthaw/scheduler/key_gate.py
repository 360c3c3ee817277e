"""What a key's own limits say to a request of its holder, before the request is taken on."""

from __future__ import annotations

from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.keys import UNLIMITED, KeyLimits, KeyRing
from quickthaw.scheduler.live import LiveRequests
from quickthaw.wire import errors

MINUTE_MS = 60_000.0
PACES_PRUNED_ABOVE = 4_096


class KeyGate:
    """Belongs to the event loop. Paces are not kept over a restart, open requests are."""

    def __init__(self, keys: KeyRing, live: LiveRequests, clock: Clock) -> None:
        self._keys = keys
        self._live = live
        self._clock = clock
        # When all that a key has taken will have been refilled.
        self._full_again_ms: dict[str, float] = {}
        # Requests on their way into the journal: no live ones yet.
        self._on_their_way: dict[str, int] = {}

    def limits(self, key_id: str) -> KeyLimits:
        """Of a key whose holder calls just now; the empty id is none of a key's. Raises
        Unavailable."""
        if not key_id:
            return UNLIMITED
        record = self._keys.current(key_id)
        if record is None:
            # Only if thousands of other keys were first used since the call began.
            raise errors.Unavailable("the key must be read again; try again")
        return record.limits

    def check_model(self, key_id: str, model_id: str) -> KeyLimits:
        """Raises PermissionDenied."""
        limits = self.limits(key_id)
        if not limits.admit(model_id):
            raise errors.PermissionDenied(
                f"the key may not call {model_id}, but {', '.join(limits.models[:10])}; use "
                "another key, or have its limits changed"
            )
        return limits

    def check_room(self, key_id: str) -> None:
        """Raises ResourceExhausted with the time after which to try again."""
        limits = self.limits(key_id)
        most = limits.concurrent_requests
        if most and self._live.open_of(key_id) + self._on_their_way.get(key_id, 0) >= most:
            raise errors.ResourceExhausted(
                f"the key has {most} requests that have not ended, which is its limit",
                retry_delay_seconds=1.0,
            )
        if not (rate := limits.requests_per_minute):
            return
        now_ms = self._clock.now_ms()
        early_ms = self._after_one_more(key_id, rate, now_ms) - now_ms - MINUTE_MS
        # A thousandth for what floating point loses on the way.
        if early_ms > 1e-3:
            raise errors.ResourceExhausted(
                f"the key may hand in {rate} requests a minute",
                retry_delay_seconds=max(0.001, early_ms / 1000),
            )

    def took(self, key_id: str) -> None:
        """A request was taken on that `check_room` had let pass."""
        if rate := self.limits(key_id).requests_per_minute:
            now_ms = self._clock.now_ms()
            if len(self._full_again_ms) > PACES_PRUNED_ABOVE:
                self._prune(now_ms)
            self._full_again_ms[key_id] = self._after_one_more(key_id, rate, now_ms)

    def set_out(self, key_id: str) -> None:
        """One of the key's requests is on its way into the journal; `arrived` ends that."""
        self._on_their_way[key_id] = self._on_their_way.get(key_id, 0) + 1

    def arrived(self, key_id: str) -> None:
        """It is a live request by now, or was never accepted."""
        left = self._on_their_way.pop(key_id) - 1
        if left:
            self._on_their_way[key_id] = left

    def _after_one_more(self, key_id: str, rate: int, now_ms: int) -> float:
        return max(now_ms, self._full_again_ms.get(key_id, 0.0)) + MINUTE_MS / rate

    def _prune(self, now_ms: int) -> None:
        kept = {key: full for key, full in self._full_again_ms.items() if full > now_ms}
        self._full_again_ms = kept
