"""What has become known of a request that runs: its log, and since when it runs."""

from __future__ import annotations

from collections import deque

from quickthaw.gateway.context import Gateway
from quickthaw.gateway.platform import Credential
from quickthaw.gateway.replay import replay
from quickthaw.v1 import inference_pb2, types_pb2

_BAR_CHARS = 10


class Log:
    """Lines of the model, and one like tqdm's for each step, which clients read progress from."""

    def __init__(self, lines_max: int) -> None:
        self._lines: deque[str] = deque(maxlen=lines_max)
        self.started_unix_ms = 0

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines)

    def take(self, event: inference_pb2.Event) -> str | None:
        """The line that it adds, if any."""
        line: str | None = None
        match event.WhichOneof("kind"):
            case "log":
                line = event.log.text.replace("\n", " ")
            case "progress":
                line = progress_line(event.progress.step, event.progress.steps)
            case "state_change":
                if event.state_change.state == types_pb2.REQUEST_STATE_RUNNING:
                    self.started_unix_ms = self.started_unix_ms or event.unix_ms
            case _:
                pass
        if line is not None:
            self._lines.append(line)
        return line


def progress_line(step: int, steps: int) -> str:
    done = min(1.0, step / steps) if steps else 1.0
    bar = ("#" * round(done * _BAR_CHARS)).ljust(_BAR_CHARS)
    return f"{done * 100:.0f}%|{bar}| {step}/{steps}"


async def replayed(gateway: Gateway, credential: Credential, request: types_pb2.Request) -> Log:
    """Everything so far."""
    log = Log(gateway.limits.log_lines_max)
    await replay(gateway, credential, request, log.take)
    return log
