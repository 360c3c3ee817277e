"""Who waits for a run: nobody."""

from __future__ import annotations


class Nobody:
    """A stop signal that is never set, and a listener that nobody hears."""

    def is_set(self) -> bool:
        return False

    async def wait(self) -> None:
        raise AssertionError("nobody waits here")

    def progress(self, step: int, steps: int) -> None: ...

    def preview(self, *_: object, **__: object) -> None: ...

    def log(self, level: str, text: str) -> None: ...
