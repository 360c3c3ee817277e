"""Every call of the published fal_client, whatever its version: run with that version first on the
path, and with environment variables as the only change. Arguments: the model, and `hosts` if those
are the variables that name hosts, which do not lead uploads and tokens here."""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fal_client
from PIL import Image

from support.compatibility.calls import Lacking, main

MODEL = sys.argv[1]
HOSTS_ONLY = sys.argv[2:] == ["hosts"]
INPUT = {"prompt": "a red circle", "seed": 7, "num_inference_steps": 2}
WRONG = {"prompt": 5}
CLIENT: Any = fal_client
"""Untyped, because older versions have fewer names."""


def named(name: str) -> Any:
    if not hasattr(CLIENT, name):
        raise Lacking
    return getattr(CLIENT, name)


def has_picture(output: Any) -> bool:
    return bool(output["images"][0]["url"])


def stored(url: str) -> bool:
    return "/files/" in url


def subscribe() -> bool:
    seen: list[str] = []
    output = CLIENT.subscribe(
        MODEL,
        arguments=INPUT,
        with_logs=True,
        on_enqueue=lambda request_id: seen.append(request_id),
        on_queue_update=lambda update: seen.append(type(update).__name__),
    )
    return has_picture(output) and seen[-1] == "Completed" and len(seen) >= 2


async def subscribe_async() -> bool:
    return has_picture(await CLIENT.subscribe_async(MODEL, arguments=INPUT, with_logs=True))


def submitted() -> Any:
    return CLIENT.submit(MODEL, arguments=INPUT)


async def submit_async() -> bool:
    handle = await CLIENT.submit_async(MODEL, arguments=INPUT)
    events = [event async for event in handle.iter_events(with_logs=True)]
    return bool(events) and has_picture(await handle.get())


def handle_calls() -> bool:
    handle = submitted()
    events = [type(event).__name__ for event in handle.iter_events(with_logs=True)]
    done = type(handle.status(with_logs=True)).__name__
    return has_picture(handle.get()) and events[-1] == done == "Completed"


def by_id() -> bool:
    request_id = submitted().request_id
    output = CLIENT.result(MODEL, request_id)
    state = type(CLIENT.status(MODEL, request_id, with_logs=True)).__name__
    return has_picture(output) and state == "Completed"


def get_handle() -> bool:
    if not hasattr(CLIENT.SyncClient, "get_handle"):
        raise Lacking
    client = CLIENT.SyncClient()
    return has_picture(client.get_handle(MODEL, submitted().request_id).get())


def cancel() -> bool:
    handle = CLIENT.submit(MODEL, arguments={**INPUT, "num_inference_steps": 100})
    CLIENT.cancel(MODEL, handle.request_id)
    try:
        handle.get()
    except Exception:
        return True
    return False


def priority() -> bool:
    handle = CLIENT.submit(MODEL, arguments=INPUT, priority="low", hint="worker-0")
    return has_picture(handle.get())


def start_timeout() -> bool:
    if not hasattr(CLIENT, "FalClientTimeoutError"):
        raise Lacking
    return has_picture(CLIENT.run(MODEL, arguments=INPUT, start_timeout=30))


def errors() -> bool:
    try:
        CLIENT.run(MODEL, arguments=WRONG)
    except Exception as error:
        return "prompt" in str(error)
    return False


async def stream_async() -> bool:
    events = [event async for event in CLIENT.stream_async(MODEL, arguments=INPUT)]
    return has_picture(events[-1])


def realtime(use_jwt: bool) -> Callable[[], bool]:
    def call() -> bool:
        with named("realtime")(MODEL, use_jwt=use_jwt) as connection:
            connection.send(INPUT)
            return bool(connection.recv()["images"][0]["content"])

    return call


async def realtime_async() -> bool:
    async with named("realtime_async")(MODEL) as connection:
        await connection.send(INPUT)
        return bool((await connection.recv())["images"][0]["content"])


def ws_connect() -> bool:
    import msgpack

    with named("ws_connect")(MODEL, path="/realtime") as socket:
        socket.send(msgpack.packb(INPUT))
        return bool(msgpack.unpackb(socket.recv())["images"])


def upload_file() -> bool:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "some.txt"
        path.write_text("some bytes")
        return stored(CLIENT.upload_file(path))


def picture() -> Image.Image:
    return Image.new("RGB", (64, 64), "red")


def encode() -> bool:
    data = io.BytesIO()
    picture().save(data, "PNG")
    uris = (CLIENT.encode(data.getvalue(), "image/png"), CLIENT.encode_image(picture()))
    return all(uri.startswith("data:image/") for uri in uris)


async def run_async() -> bool:
    return has_picture(await CLIENT.run_async(MODEL, arguments=INPUT))


async def upload_async() -> bool:
    return stored(await CLIENT.upload_async(b"some bytes", "text/plain"))


CALLS: dict[str, Callable[[], object]] = {
    "run": lambda: has_picture(CLIENT.run(MODEL, arguments=INPUT)),
    "run_async": run_async,
    "run, start_timeout": start_timeout,
    "run, an error": errors,
    "submit, handle.iter_events, status, get": handle_calls,
    "submit_async, iter_events, get": submit_async,
    "submit, priority and hint": priority,
    "status, result": by_id,
    "get_handle": get_handle,
    "cancel": cancel,
    "subscribe": subscribe,
    "subscribe_async": subscribe_async,
    "stream": lambda: has_picture(list(CLIENT.stream(MODEL, arguments=INPUT))[-1]),
    "stream_async": stream_async,
    "realtime": realtime(use_jwt=True),
    "realtime, use_jwt=False": realtime(use_jwt=False),
    "realtime_async": realtime_async,
    "ws_connect": ws_connect,
    "upload": lambda: stored(CLIENT.upload(b"some bytes", "text/plain")),
    "upload_async": upload_async,
    "upload_file": upload_file,
    "upload_image": lambda: stored(CLIENT.upload_image(picture())),
    "encode, encode_image": encode,
}

OUT_OF_REACH = ("realtime", "realtime_async", "ws_connect")
"""Of the variables for hosts, as everything that begins with `upload`."""


def out_of_reach() -> object:
    raise Lacking


if HOSTS_ONLY:
    CALLS |= {
        name: out_of_reach for name in CALLS if name in OUT_OF_REACH or name.startswith("upload")
    }

if __name__ == "__main__":
    main(CALLS)
