"""What videos and pictures cost beside their model: reading the picture that one begins with, the
previews between the steps, and writing the file.

A moving picture with grain, of Wan's size and length unless told otherwise, goes through each
encoder that the installed PyAV has; the file is decoded again and compared, so that a fast encoder
of another picture does not count. Times are of the processor, since encoders use many threads.

python -m bench.media [--width 832] [--height 480] [--frames 81] [--rounds 5]
"""

from __future__ import annotations

import argparse
import io
import math
import statistics
import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import torch
from bench.support import record
from PIL import Image

from quickthaw.worker.inputs import PictureUrls
from quickthaw.worker.pictures import open_pictures
from quickthaw.worker.previews import PreviewPainter
from quickthaw.worker.video_files import VideoCodec, choose, encode

SEED = 7
FPS = 16
PSNR_MIN = 30.0
PHOTO = (4032, 3024)
FORMATS = [("mp4", codec) for codec in VideoCodec if codec is not VideoCodec.AUTO]


class _Colours:
    """A map from sixteen channels to RGB, as a manifest has one."""

    weights = tuple(tuple(row) for row in np.random.default_rng(SEED).normal(0, 0.2, (16, 3)))
    bias = (0.5, 0.5, 0.5)


def film(width: int, height: int, frames: int) -> np.ndarray:
    """(frames, height, width, 3): waves that move at three speeds, and a little grain."""
    grain = np.random.default_rng(SEED).normal(0, 2, (height, width, 3))
    down, right = np.mgrid[0:height, 0:width]
    moved = [
        np.stack(
            [
                128 + 100 * np.sin((right + 4 * index) / 60),
                128 + 100 * np.cos((down + 2 * index) / 40),
                128 + 100 * np.sin((right + down + 3 * index) / 90),
            ],
            axis=-1,
        )
        + grain
        for index in range(frames)
    ]
    return np.stack(moved).clip(0, 255).astype(np.uint8)


def decoded(data: bytes) -> Iterator[np.ndarray]:
    with av.open(io.BytesIO(data), "r") as file:
        for frame in file.decode(video=0):
            yield frame.to_ndarray(format="rgb24")


def psnr(data: bytes, frames: np.ndarray) -> float:
    """Decibels. Raises ValueError if a frame is missing."""
    errors = [
        float(((found.astype(float) - wanted) ** 2).mean())
        for found, wanted in zip(decoded(data), frames, strict=True)
    ]
    return 10 * math.log10(255**2 / statistics.fmean(errors))


def measure_file(frames: np.ndarray, container: str, codec: VideoCodec, rounds: int) -> Any:
    chosen = choose(container, codec)
    size = (frames.shape[2], frames.shape[1])
    seconds, wall = [], []
    data = b""
    for _ in range(rounds):
        began, began_cpu = time.perf_counter(), time.process_time()
        data = encode(iter(frames), size, FPS, chosen)
        wall.append(time.perf_counter() - began)
        seconds.append(time.process_time() - began_cpu)
    quality = psnr(data, frames)
    assert quality > PSNR_MIN, (chosen, quality)
    return {
        "encoder": chosen.encoder,
        "cpu_seconds_p50": round(statistics.median(seconds), 3),
        "wall_seconds_p50": round(statistics.median(wall), 3),
        "bytes": len(data),
        "psnr_db": round(quality, 1),
    }


def measure_preview(width: int, height: int, frames: int, rounds: int) -> Any:
    """Of latents as Wan has them."""
    painter = PreviewPainter(_Colours(), 8)
    generator = torch.Generator().manual_seed(SEED)
    coarse = torch.randn(1, 16, (frames - 1) // 4 + 1, 8, 12, generator=generator)
    shape = (coarse.shape[2], height // 8, width // 8)
    smooth = torch.nn.functional.interpolate(coarse, size=shape, mode="trilinear")
    latents = smooth[0].transpose(0, 1)
    seconds, size = [], 0
    for _ in range(rounds):
        began = time.process_time()
        made = painter.animate(latents, frames / FPS)
        seconds.append(time.process_time() - began)
        assert made is not None
        size = len(made[0])
        with Image.open(io.BytesIO(made[0])) as picture:
            assert getattr(picture, "n_frames", 1) == 8
    return {"cpu_ms_p50": round(1000 * statistics.median(seconds), 2), "bytes": size}


def measure_beginning(width: int, height: int, rounds: int) -> Any:
    """A photograph of twelve megapixels, as it comes out of the blob store, to a video's size."""
    shown = Image.fromarray(film(PHOTO[0] // 8, PHOTO[1] // 8, 1)[0]).resize(PHOTO)
    photo = io.BytesIO()
    shown.save(photo, "JPEG", quality=90)
    urls = PictureUrls("blob:inputs/" + 43 * "A")
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        opened = open_pictures(urls, (width, height), lambda key: photo.getvalue())
        seconds.append(time.process_time() - began)
        assert opened is not None
        assert opened.image.size == (width, height)
    return {"cpu_ms_p50": round(1000 * statistics.median(seconds), 1), "bytes": photo.tell()}


def measure_still_preview(rounds: int) -> Any:
    """Of latents as those of a picture of 1024 x 1024 are."""
    painter = PreviewPainter(_Colours(), 8)
    generator = torch.Generator().manual_seed(SEED)
    coarse = torch.randn(1, 16, 8, 8, generator=generator)
    latents = torch.nn.functional.interpolate(coarse, size=(128, 128), mode="bilinear")
    seconds, size = [], 0
    for _ in range(rounds):
        began = time.process_time()
        ((data, side),) = painter.paint(latents)
        seconds.append(time.process_time() - began)
        assert side == (256, 256)
        size = len(data)
    return {"cpu_ms_p50": round(1000 * statistics.median(seconds), 2), "bytes": size}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.media")
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    frames = film(given.width, given.height, given.frames)
    files = [measure_file(frames, container, codec, given.rounds) for container, codec in FORMATS]
    preview = measure_preview(given.width, given.height, given.frames, given.rounds)
    results = {
        "files": files,
        "preview": preview,
        "still_preview": measure_still_preview(given.rounds),
        "beginning": measure_beginning(given.width, given.height, given.rounds),
    }
    record("media", {**vars(given), "seed": SEED}, results)


if __name__ == "__main__":
    main()
