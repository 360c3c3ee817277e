"""What an application does with fal_client, as it is published: run by a test in a process of its
own, with environment variables as the only change. Prints one JSON object."""

from __future__ import annotations

import asyncio
import json
import sys

import fal_client


async def main(endpoint: str) -> dict[str, object]:
    arguments = {"prompt": "a red circle", "seed": 7}
    told: dict[str, object] = {}
    told["run"] = fal_client.run(endpoint, arguments=arguments)
    told["run_async"] = await fal_client.run_async(endpoint, arguments=arguments)
    handle = fal_client.submit(endpoint, arguments=arguments)
    told["request_id"] = handle.request_id
    told["events"] = [type(event).__name__ for event in handle.iter_events(with_logs=True)]
    told["result"] = fal_client.result(endpoint, handle.request_id)
    told["status"] = type(fal_client.status(endpoint, handle.request_id)).__name__
    seen: list[str] = []
    told["subscribe"] = fal_client.subscribe(
        endpoint,
        arguments=arguments,
        on_enqueue=seen.append,
        on_queue_update=lambda update: seen.append(type(update).__name__),
    )
    told["updates"] = seen
    told["stream"] = list(fal_client.stream(endpoint, arguments=arguments))
    try:
        fal_client.run(endpoint, arguments={"prompt": 5})
    except fal_client.FalClientHTTPError as error:
        told["error"] = [error.status_code, str(error)]
    return told


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1]))))
