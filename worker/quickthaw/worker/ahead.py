"""What a pipeline answered while its model was still loading, for the run that asks again.

The pipeline is asked for its picture as it will be later, and stopped once its prompt is encoded.
The answer is kept for the run, whose pipeline then asks the same. So every family gets this alike,
and the run draws what it would have drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Question: TypeAlias = str
_PLAIN = (str, int, float, bool, type(None))


class Encoded(Exception):
    """Stops a pipeline whose prompt is encoded."""


class Answers:
    """What one attempt's `encode_prompt` answered. For one thread at a time."""

    def __init__(self) -> None:
        self._found: dict[Question, Any] = {}
        self.seconds = 0.0
        """How long encoding took."""
        self.asking = False
        """Whether to stop the pipeline after the first answer."""

    def ask(self, encode: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`encode`'s answer, from before if the same was asked then."""
        question = _written(args, kwargs)
        if question is not None and question in self._found:
            return self._found.pop(question)
        answer = encode(*args, **kwargs)
        if self.asking and question is not None:
            self._found[question] = answer
            raise Encoded
        return answer


def _written(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Question | None:
    """The arguments in full, or None if they hold anything that its text does not tell apart."""
    import torch

    def told(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return all(told(each) for each in value)
        if isinstance(value, dict):
            return all(told(each) for each in (*value.keys(), *value.values()))
        return isinstance(value, (*_PLAIN, torch.device, torch.dtype))

    if not all(told(value) for value in (*args, *kwargs.values())):
        return None
    return repr((args, sorted(kwargs.items())))
