"""What a schema takes for a whole number is one to the pipelines as well."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from quickthaw.worker.inputs import InputReader, Parse, image_input, sound_input, video_input

WHOLE = {"type": "integer"}
NUMBER = {"type": "number"}
SIZE = {"type": "object", "properties": {"width": WHOLE, "height": WHOLE}}
NAMES = {
    **dict.fromkeys(("num_inference_steps", "num_images", "num_frames", "fps"), WHOLE),
    **dict.fromkeys(("preview_every", "motion_bucket_id"), WHOLE),
    "seed": {"type": ["integer", "null"]},
    "image_size": SIZE,
    "guidance_scale": NUMBER,
    "seconds_total": NUMBER,
}


def read(parse: Parse, **values: Any) -> dict[str, Any]:
    reader = InputReader({"type": "object", "properties": NAMES}, parse)
    given = {"prompt": "x", "guidance_scale": 1, "seconds_total": 2, **values}
    return dataclasses.asdict(reader.read(json.dumps(given)))


def test_a_whole_number_with_a_point_is_the_number_without() -> None:
    numbers = dict.fromkeys(name for name, rule in NAMES.items() if rule is WHOLE)
    for parse in (image_input, video_input, sound_input):
        told = [
            read(
                parse,
                **dict.fromkeys(numbers, kind(8)),
                seed=kind(7),
                image_size={"width": kind(64), "height": kind(32)},
            )
            for kind in (int, float)
        ]
        # 8.0 == 8, so that only their texts tell them apart.
        assert repr(told[0]) == repr(told[1])


def test_a_seed_keeps_its_64_bits_or_is_none() -> None:
    size = {"width": 8, "height": 8}
    for seed in (2**64 - 1, None):
        read_back = read(image_input, num_inference_steps=1, image_size=size, seed=seed)
        assert read_back["seed"] == seed
