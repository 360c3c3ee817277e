"""Measures how often the model draws what a prompt asks for, and writes evaluation.json.

Prompts come from the held-out part of the grammar, whose combinations training never saw; a second
set of trained combinations shows whether there is a gap. Every picture is made with the defaults
of defaults.json and its own fixed seed, and read back from its pixels by measure.py.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from PIL import Image

from captions import Pair, Scene, Single, all_scenes, caption, is_held_out
from data import contact_sheet
from measure import Score, describe, read, score
from render import SIZE

HERE = Path(__file__).parent
SINGLE_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Settings:
    steps: int
    guidance_scale: float
    batch_size: int
    seed: int


@dataclass(frozen=True, slots=True)
class Result:
    scene: Scene
    seed: int
    picture: NDArray[np.uint8]
    score: Score
    seen: str


def choose_scenes(count: int, *, held_out: bool, seed: int) -> list[Scene]:
    """A tenth singles (repeated, with other seeds, if there are fewer), the rest distinct pairs."""
    chance = random.Random(seed)
    scenes = [scene for scene in all_scenes() if is_held_out(scene) is held_out]
    singles = [scene for scene in scenes if isinstance(scene, Single)]
    pairs = [scene for scene in scenes if isinstance(scene, Pair)]
    wanted = round(count * SINGLE_SHARE)
    return [*chance.choices(singles, k=wanted), *chance.sample(pairs, k=count - wanted)]


def draw(
    pipeline: StableDiffusionPipeline, scenes: Sequence[Scene], settings: Settings
) -> list[Result]:
    results: list[Result] = []
    for start in range(0, len(scenes), settings.batch_size):
        batch = scenes[start : start + settings.batch_size]
        seeds = [settings.seed + start + offset for offset in range(len(batch))]
        pictures = pipeline(
            [caption(scene) for scene in batch],
            num_inference_steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            height=SIZE,
            width=SIZE,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).images
        for scene, seed, values in zip(batch, seeds, pictures, strict=True):
            picture = (values * 255).round().astype(np.uint8)
            reading = read(picture)
            seen = "; ".join(map(describe, reading.regions)) + f" on {reading.background}"
            results.append(Result(scene, seed, picture, score(scene, reading), seen))
    return results


def summarise(results: Sequence[Result]) -> dict[str, int | float | None]:
    """Percentages; relation counts only prompts that have one, and is None if none has."""

    def percentage(answers: Sequence[bool]) -> float | None:
        return round(100 * sum(answers) / len(answers), 1) if answers else None

    scores = [result.score for result in results]
    relations = [score.relation for score in scores if score.relation is not None]
    return {
        "prompts": len(results),
        "distinct_prompts": len({caption(result.scene) for result in results}),
        "colour": percentage([score.colour for score in scores]),
        "shape": percentage([score.shape for score in scores]),
        "relation": percentage(relations),
        "background": percentage([score.background for score in scores]),
        "all_right": percentage([score.all_right for score in scores]),
    }


def main() -> None:
    defaults = json.loads((HERE / "defaults.json").read_text())
    parser = argparse.ArgumentParser(
        description="Score the shapes model on held-out prompts, from the pixels.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--pipeline", type=Path, default=HERE / "pipeline", help="diffusers folder")
    parser.add_argument("--count", type=int, default=300, help="held-out prompts")
    parser.add_argument("--trained-count", type=int, default=100, help="prompts that training saw")
    parser.add_argument("--steps", type=int, default=defaults["steps"])
    parser.add_argument("--guidance-scale", type=float, default=defaults["guidance_scale"])
    parser.add_argument("--seed", type=int, default=7000)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=HERE / "evaluation.json")
    parser.add_argument("--sheet", type=Path, help="also write the first 64 pictures as one PNG")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    diffusers_logging.disable_progress_bar()

    pipeline = StableDiffusionPipeline.from_pretrained(
        options.pipeline, dtype=getattr(torch, options.dtype)
    )
    pipeline.set_progress_bar_config(disable=True)
    settings = Settings(options.steps, options.guidance_scale, options.batch_size, options.seed)
    started = time.monotonic()
    held_out = draw(
        pipeline, choose_scenes(options.count, held_out=True, seed=options.seed), settings
    )
    report = {
        "steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "seed": settings.seed,
        "dtype": options.dtype,
        "held_out": summarise(held_out),
        "held_out_singles": summarise_some(held_out, Single),
        "held_out_pairs": summarise_some(held_out, Pair),
    }
    if options.trained_count:
        scenes = choose_scenes(options.trained_count, held_out=False, seed=options.seed)
        report["trained"] = summarise(draw(pipeline, scenes, settings))
    report["wrong"] = [
        {"prompt": caption(result.scene), "seed": result.seed, "seen": result.seen}
        for result in held_out
        if not result.score.all_right
    ]
    options.output.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2), f"\n{time.monotonic() - started:.0f} s")
    if options.sheet:
        Image.fromarray(contact_sheet([result.picture for result in held_out[:64]])).save(
            options.sheet
        )


def summarise_some(
    results: Sequence[Result], kind: type[Single] | type[Pair]
) -> dict[str, int | float | None]:
    return summarise([result for result in results if isinstance(result.scene, kind)])


if __name__ == "__main__":
    main()
