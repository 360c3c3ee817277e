"""An application of fal's client that asks for videos and a sound: environment variables lead it
here, nothing else. Prints what it got, as JSON. Argument: a picture's path."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fal_client

STEPS = {"seed": 7, "num_inference_steps": 2}
FILM = {**STEPS, "num_frames": 9, "fps": 6, "image_size": {"width": 64, "height": 32}}


def main(picture: str) -> None:
    told: dict[str, object] = {}
    told["wan"] = fal_client.subscribe("test/wan", {**FILM, "prompt": "a red circle"})
    uploaded = fal_client.upload_file(Path(picture))
    told["svd"] = fal_client.subscribe("test/svd", {**FILM, "image_url": uploaded})
    told["both"] = fal_client.subscribe(
        "test/both/image-to-video", {**FILM, "prompt": "a red circle", "start_image_url": uploaded}
    )
    told["kontext"] = fal_client.subscribe(
        "test/kontext",
        {
            **STEPS,
            "prompt": "make it blue",
            "image_url": uploaded,
            "image_size": FILM["image_size"],
        },
    )
    told["klein"] = fal_client.subscribe(
        "test/klein",
        {
            **STEPS,
            "prompt": "both of them",
            "image_urls": [uploaded, uploaded],
            "image_size": FILM["image_size"],
        },
    )
    told["audio"] = fal_client.subscribe(
        "test/audio", {**STEPS, "prompt": "a red circle", "seconds_total": 4}
    )
    told["stream"] = list(fal_client.stream("test/wan", {**FILM, "prompt": "a red circle"}))
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1])
