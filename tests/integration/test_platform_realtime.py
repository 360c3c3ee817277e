"""Realtime on a whole platform: real pictures over one connection, each of them billed."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgpack
from PIL import Image
from websockets.sync.client import connect

from support.platform import running_platform


def test_pictures_of_one_connection_come_from_one_worker_and_each_is_billed(
    tmp_path: Path,
) -> None:
    with running_platform(tmp_path) as platform, platform.client() as client:
        http = platform.ready["http"]
        url = http.replace("http", "ws", 1) if "://" in http else f"ws://{http}"
        outputs: list[dict[str, Any]] = []
        headers = {"authorization": f"Key {platform.key}"}
        with connect(f"{url}/quickthaw/shapes/realtime", additional_headers=headers) as socket:
            for seed in range(3):
                socket.send(
                    msgpack.packb(
                        {"prompt": "a red circle", "num_inference_steps": 2, "seed": seed}
                    )
                )
                frame = socket.recv(timeout=60)
                assert isinstance(frame, bytes), frame
                outputs.append(msgpack.unpackb(frame))
                assert isinstance(socket.recv(timeout=60), str)
        for output in outputs:
            image = output["images"][0]
            with Image.open(io.BytesIO(image["content"])) as picture:
                assert picture.size == (image["width"], image["height"])
            stored = client.get(output["request_id"])
            assert stored.receipt is not None
            assert stored.receipt.price_nanodollars == output["receipt"]["price_nanodollars"] > 0
        assert len({output["receipt"]["worker_id"] for output in outputs}) == 1
        assert len({output["request_id"] for output in outputs}) == 3
