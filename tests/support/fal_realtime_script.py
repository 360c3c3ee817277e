"""What an application does with fal_client's sockets and streams, as it is published: run by a test
in a process of its own, with environment variables as the only change. Prints one JSON object."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import fal_client
import msgpack
from fal_client.client import RealtimeError


def summary(output: dict[str, Any] | None) -> list[object]:
    assert output is not None
    (image,) = output["images"]
    return [output["prompt"], len(image["content"]), image["url"][:8], output.get("request_id")]


def blocking(endpoint: str) -> dict[str, object]:
    told: dict[str, object] = {}
    for use_jwt in (True, False):
        with fal_client.realtime(endpoint, use_jwt=use_jwt, max_buffering=5) as connection:
            answers = []
            for name in ("a red circle", "a blue square"):
                connection.send({"prompt": name, "request_id": name})
                answers.append(summary(connection.recv()))
            try:
                connection.send({"prompt": 5})
                connection.recv()
            except RealtimeError as error:
                answers.append([error.error, error.reason])
            connection.send({"prompt": "after an error"})
            answers.append(summary(connection.recv())[:2])
        told[f"realtime jwt={use_jwt}"] = answers
    with fal_client.ws_connect(endpoint, path="/realtime") as socket:
        socket.send(json.dumps({"prompt": "raw"}))
        told["ws_connect"] = msgpack.unpackb(socket.recv())["prompt"]
        told["ws_connect timings"] = json.loads(socket.recv())["action"]
    events = list(fal_client.stream(endpoint, arguments={"prompt": "a red circle"}))
    told["stream"] = [event["images"][0]["url"][:22] for event in events]
    return told


async def concurrent(endpoint: str) -> dict[str, object]:
    told: dict[str, object] = {}
    for use_jwt in (True, False):
        async with fal_client.realtime_async(endpoint, use_jwt=use_jwt) as connection:
            await connection.send({"prompt": "async"})
            told[f"realtime_async jwt={use_jwt}"] = summary(await connection.recv())[:2]
    async with fal_client.ws_connect_async(endpoint, path="/realtime") as socket:
        await socket.send(msgpack.packb({"prompt": "raw"}))
        frame = await socket.recv()
        assert isinstance(frame, bytes)
        told["ws_connect_async"] = msgpack.unpackb(frame)["prompt"]
    events = [event async for event in fal_client.stream_async(endpoint, {"prompt": "x"})]
    told["stream_async"] = len(events)
    return told


if __name__ == "__main__":
    told = blocking(sys.argv[1])
    print(json.dumps({**told, **asyncio.run(concurrent(sys.argv[1]))}))
