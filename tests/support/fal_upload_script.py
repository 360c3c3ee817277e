"""What an application does with fal_client's uploads, as published: run by a test in a process of
its own, with environment variables as the only change. Prints one JSON object."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import fal_client
from PIL import Image

LARGE_BYTES = 101 * 1024 * 1024


async def main(folder: Path) -> dict[str, object]:
    picture = folder / "a picture.png"
    Image.new("RGB", (8, 8), "red").save(picture)
    large = folder / "large.bin"
    with large.open("wb") as file:
        file.truncate(LARGE_BYTES)  # A hole: it costs no disk here.
    return {
        "upload": fal_client.upload(b"some bytes", "text/plain", file_name="../odd name.txt"),
        "upload_async": await fal_client.upload_async(b"some bytes", "text/plain"),
        "upload_again": fal_client.upload(b"more bytes", "text/plain"),
        "expiring": fal_client.upload(
            b"x", "text/plain", lifecycle=fal_client.StorageSettings(expires_in="1h")
        ),
        **{
            f"hidden_{repository}": fal_client.upload(
                b"some bytes",
                "text/plain",
                repository=repository,
                lifecycle=fal_client.StorageSettings(
                    initial_acl=fal_client.StorageACL(default="hide")
                ),
            )
            for repository in ("fal_v3", "fal")
        },
        "upload_file": fal_client.upload_file(picture),
        "upload_image": fal_client.upload_image(Image.open(picture)),
        "fallback": fal_client.upload(b"some bytes", "text/plain", repository="fal"),
        "large": fal_client.upload_file(large),
        "large_async": await fal_client.upload_file_async(large),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(Path(sys.argv[1])))))
