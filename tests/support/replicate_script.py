"""A program that uses the published replicate client as its documentation shows, with environment
variables as the only change. Prints one JSON object."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from typing import Any

import httpx
import replicate
from replicate.client import Client
from replicate.exceptions import ReplicateError

INPUT = {"prompt": "a red circle above a blue square", "seed": 7}


def main(name: str, hook: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    output = replicate.run(name, input=INPUT)
    assert isinstance(output, list)
    told["run"] = [len(each.read()) for each in output]
    told["run_url"] = output[0].url[:30]
    polled = replicate.run(name, input=INPUT, wait=False)
    assert isinstance(polled, list)
    told["run_polling"] = [len(each.read()) for each in polled]
    model = replicate.models.get(name)
    version = model.latest_version
    assert version is not None
    told["model"] = [model.owner, model.name, model.visibility]
    told["version"] = version.id
    told["inputs"] = sorted(version.openapi_schema["components"]["schemas"]["Input"]["properties"])
    told["versions"] = [each.id for each in model.versions.list()]
    told["same_version"] = model.versions.get(version.id).id
    by_version = replicate.run(f"{name}:{version.id}", input=INPUT)
    assert isinstance(by_version, list)
    told["run_by_version"] = len(by_version)
    told["models"] = [f"{each.owner}/{each.name}" for each in replicate.models.list()]
    told["found"] = [each.name for each in replicate.models.search("shapes")]
    told.update(predictions(name, version, hook))
    told["stream"] = [
        [str(event.event), len(str(event.data))] for event in replicate.stream(name, input=INPUT)
    ]
    account = replicate.default_client.accounts.current()
    told["account"] = [account.type, account.username]
    told["hardware"] = [each.sku for each in replicate.default_client.hardware.list()]
    told["secret"] = replicate.default_client.webhooks.default.secret().key
    told.update(mistakes(name))
    told.update(asyncio.run(also_async(name)))
    return told


def predictions(name: str, version: Any, hook: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    made = replicate.predictions.create(
        version=version, input=INPUT, webhook=hook, webhook_events_filter=["completed"]
    )
    told["created"] = [len(made.id), made.status, made.model, made.version]
    made.wait()
    told["waited"] = [made.status, made.metrics, made.error]
    assert made.progress is not None
    told["progress"] = [made.progress.current, made.progress.total, made.progress.percentage]
    told["times"] = [made.created_at, made.started_at, made.completed_at]
    again = replicate.predictions.get(made.id)
    told["same"] = again.output == made.output
    told["listed"] = made.id in [each.id for each in replicate.predictions.list()]
    told["pages"] = sum(len(page) for page in replicate.paginate(replicate.predictions.list))
    doomed = replicate.models.predictions.create(name, input={**INPUT, "num_inference_steps": 100})
    doomed.cancel()
    doomed.wait()
    told["cancelled"] = doomed.status
    waited = replicate.models.predictions.create(name, input=INPUT, wait=30)
    told["created_waiting"] = waited.status
    return told


def mistakes(name: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for label, call in (
        ("input", lambda: replicate.run(name, input={"prompt": 5})),
        ("model", lambda: replicate.run("no/such", input={})),
        ("version", lambda: replicate.predictions.create(version="0" * 64, input={})),
        ("prediction", lambda: replicate.predictions.get("x" * 26)),
        (
            "key",
            lambda: Client(api_token="qt_wrong").predictions.list(),
        ),
    ):
        try:
            call()
        except ReplicateError as error:
            told[f"mistake_{label}"] = [error.status, error.title, error.detail]
    return told


async def also_async(name: str) -> dict[str, Any]:
    told: dict[str, Any] = {}
    output = await replicate.async_run(name, input=INPUT)
    assert isinstance(output, list)
    told["async_run"] = [len(await each.aread()) for each in output]
    events = [event async for event in await replicate.async_stream(name, input=INPUT)]
    told["async_stream"] = str(events[-1].event)
    made = await replicate.predictions.async_create(version=f"{name}", input=INPUT)
    await made.async_wait()
    told["async_created"] = made.status
    return told


def files() -> dict[str, Any]:
    told: dict[str, Any] = {}
    made = replicate.default_client.files.create(
        io.BytesIO(b"some bytes"), filename="x.txt", content_type="text/plain", metadata={"a": 1}
    )
    told["file"] = [made.name, made.content_type, made.size, made.metadata, made.checksums]
    told["read_without_a_key"] = httpx.get(made.urls["get"]).text
    told["file_again"] = replicate.default_client.files.get(made.id).id == made.id
    told["files"] = [each.id for each in replicate.default_client.files.list()] == [made.id]
    told["deleted"] = replicate.default_client.files.delete(made.id)
    told["files_left"] = len(replicate.default_client.files.list())
    return told


if __name__ == "__main__":
    if sys.argv[1] == "files":
        print(json.dumps(files()))
    else:
        print(json.dumps(main(*sys.argv[1:])))
