"""A program that uses the queue's finer points through the published fal_client. Prints JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import fal_client

ENDPOINT = "test/tiny"


def main(hook: str) -> dict[str, Any]:
    """No worker is there before the line `ready` was answered on stdin."""
    told: dict[str, Any] = {}
    try:
        fal_client.run(ENDPOINT, arguments={"prompt": "x"}, start_timeout=1.5)
    except fal_client.FalClientHTTPError as error:
        told["run_too_late"] = [error.status_code, error.error_type]
    late = fal_client.submit(ENDPOINT, arguments={"prompt": "x"}, start_timeout=1.5)
    try:
        late.get()
    except fal_client.FalClientHTTPError as error:
        told["queued_too_late"] = [error.status_code, error.error_type]
    wrong = fal_client.submit(ENDPOINT, arguments={"prompt": 5}, webhook_url=f"{hook}/wrong")
    try:
        wrong.get()
    except fal_client.FalClientHTTPError as error:
        told["wrong"] = [error.status_code, wrong.request_id]
    low = fal_client.submit(ENDPOINT, arguments={"prompt": "low"}, priority="low")
    normal = fal_client.submit(
        ENDPOINT, arguments={"prompt": "normal"}, webhook_url=f"{hook}/right", hint="worker-1"
    )
    positions = [fal_client.status(ENDPOINT, each.request_id) for each in (low, normal)]
    told["positions"] = [getattr(each, "position", None) for each in positions]
    print("ready", flush=True)
    sys.stdin.readline()
    told["right"] = [normal.get()["receipt"]["worker_id"], normal.request_id]
    low.get()
    return told


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
