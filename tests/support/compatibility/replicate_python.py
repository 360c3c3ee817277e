"""Every call of the published replicate client that this gateway serves, whatever its version."""

from __future__ import annotations

import io
import sys
import urllib.request
from collections.abc import Callable
from typing import Any

import replicate as published
from replicate.exceptions import ReplicateError
from replicate.prediction import Predictions

from support.compatibility.calls import Lacking, main

MODEL = sys.argv[1]
INPUT = {"prompt": "a red circle", "seed": 7, "num_inference_steps": 2}
LONG = {**INPUT, "num_inference_steps": 100}
WAITS = "wait" in Predictions.CreatePredictionParams.__annotations__
"""Whether this version can be told how to wait; older ones always poll."""
POLLING = {"wait": False} if WAITS else {}
replicate: Any = published
"""Untyped, because older versions have fewer names."""


def readable(output: Any) -> bool:
    """Before 1.0 outputs are URLs, of `data:` too, and later they are files."""
    if isinstance(output[0], str):
        with urllib.request.urlopen(output[0]) as answer:
            return len(answer.read()) > 100
    return len(output[0].read()) > 100


def named(place: Any, name: str) -> Any:
    if not hasattr(place, name):
        raise Lacking
    return getattr(place, name)


def page(found: Any) -> Any:
    return getattr(found, "results", found)


async def async_run() -> bool:
    return readable(await replicate.async_run(MODEL, input=INPUT))


def version() -> Any:
    found = replicate.models.get(MODEL).latest_version
    assert found is not None
    return found


def predictions() -> bool:
    made = replicate.predictions.create(version=version(), input=INPUT)
    made.wait()
    again = replicate.predictions.get(made.id)
    return bool(made.status == "succeeded" and again.output == made.output)


def waited() -> bool:
    if not WAITS:
        raise Lacking
    made = replicate.models.predictions.create(MODEL, input=INPUT, wait=30)
    return bool(made.status == "succeeded")


def cancelled() -> bool:
    made = replicate.models.predictions.create(MODEL, input=LONG)
    made.cancel()
    made.wait()
    return bool(made.status == "canceled")


def streamed() -> bool:
    names = [str(event.event).lower() for event in replicate.stream(MODEL, input=INPUT)]
    return names[-1].endswith("done") and any(name.endswith("output") for name in names)


async def async_streamed() -> bool:
    stream = await replicate.async_stream(MODEL, input=INPUT)
    names = [str(event.event).lower() async for event in stream]
    return names[-1].endswith("done")


def versions() -> bool:
    model = replicate.models.get(MODEL)
    ids = [each.id for each in page(model.versions.list())]
    return bool(ids == [version().id] and model.versions.get(ids[0]).id == ids[0])


def listed() -> bool:
    return MODEL in [f"{each.owner}/{each.name}" for each in page(replicate.models.list())]


def stored() -> bool:
    files = named(replicate.default_client, "files")
    made = files.create(io.BytesIO(b"some bytes"))
    found = files.get(made.id).id == made.id
    present = made.id in [each.id for each in page(files.list())]
    files.delete(made.id)
    return bool(found and present)


def errors() -> bool:
    try:
        replicate.run(MODEL, input={"prompt": 5})
    except ReplicateError as error:
        return bool(error.status == 422)
    return False


CALLS: dict[str, Callable[[], object]] = {
    "run": lambda: readable(replicate.run(MODEL, input=INPUT)),
    "run, polling": lambda: readable(replicate.run(MODEL, input=INPUT, **POLLING)),
    "run, by version": lambda: readable(replicate.run(f"{MODEL}:{version().id}", input=INPUT)),
    "async_run": async_run,
    "stream": streamed,
    "async_stream": async_streamed,
    "predictions.create, wait, get": predictions,
    "models.predictions.create, wait": waited,
    "predictions.cancel": cancelled,
    "predictions.list": lambda: len(page(replicate.predictions.list())) > 0,
    "models.get, versions": versions,
    "models.list": listed,
    "models.search": lambda: len(page(named(replicate.models, "search")("shapes"))) > 0,
    "files": stored,
    "webhooks.default.secret": lambda: (
        named(replicate.default_client, "webhooks").default.secret().key
    ),
    "accounts.current": lambda: replicate.default_client.accounts.current().username,
    "hardware.list": lambda: len(replicate.default_client.hardware.list()) > 0,
    "an error": errors,
}

if __name__ == "__main__":
    main(CALLS)
