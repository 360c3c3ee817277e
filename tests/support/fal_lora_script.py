"""What an application does with LoRAs through fal_client, as published: run by a test in a process
of its own, with environment variables as the only change. Prints one JSON object.

python fal_lora_script.py MODEL FILE URL OTHER
"""

from __future__ import annotations

import hashlib
import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import fal_client


def drawn(model: str, *loras: dict[str, object]) -> dict[str, Any]:
    """The picture's digest, and how each LoRA came."""
    arguments = {
        "prompt": "a red circle above a blue square",
        "seed": 7,
        "num_inference_steps": 4,
        **({"loras": list(loras)} if loras else {}),
    }
    answer: dict[str, Any] = fal_client.subscribe(model, arguments)
    with urllib.request.urlopen(answer["images"][0]["url"]) as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    parts = answer["receipt"]["load"]["components"]
    told = {part["name"]: part["source"] for part in parts if part["name"].startswith("loras[")}
    return {"picture": digest, "loras": told}


def refused(model: str, path: str) -> str:
    try:
        drawn(model, {"path": path})
    except fal_client.FalClientHTTPError as error:
        return str(error.response.text)
    return ""


def main(model: str, file: str, url: str, other: str) -> dict[str, object]:
    uploaded = fal_client.upload_file(Path(file))
    return {
        "base": drawn(model),
        "url": drawn(model, {"path": url}),
        "again": drawn(model, {"path": url}),
        "uploaded": drawn(model, {"path": uploaded}),
        "half": drawn(model, {"path": url, "scale": 0.5}),
        "both": drawn(model, {"path": url}, {"path": other}),
        "inline": drawn(model, {"path": fal_client.encode_file(Path(file)), "scale": -1}),
        "named": drawn(model, {"path": "test/style"}),
        "secret": refused(model, "alice/secret"),
        "nobodys": refused(model, "alice/secrex"),
        "page": refused(model, url + "x"),
        "after": drawn(model),
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
