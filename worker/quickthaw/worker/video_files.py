"""Frames to a video file, one at a time, through PyAV (the libraries of FFmpeg).

Which encoder: H.264 plays everywhere, but the one that FFmpeg usually has, x264, is under the GPL,
so it is used where an operator asks for it. Without asking, an MP4 holds H.264 by OpenH264 where
the installed FFmpeg has that (BSD), and else VP9 by libvpx (BSD), which browsers play. A WebM
always holds VP9.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quickthaw.snapshot.files import full_disk_named
from quickthaw.wire.errors import EngineFailed

if TYPE_CHECKING:
    import numpy as np


class VideoCodec(StrEnum):
    """What a worker is told to put into MP4 files."""

    AUTO = "auto"
    H264 = "h264"
    VP9 = "vp9"
    AV1 = "av1"


_ENCODERS: Final[Mapping[VideoCodec, tuple[str, ...]]] = {
    VideoCodec.AUTO: ("libopenh264", "libvpx-vp9"),
    VideoCodec.H264: ("libopenh264", "libx264"),
    VideoCodec.VP9: ("libvpx-vp9",),
    VideoCodec.AV1: ("libsvtav1",),
}
_OPTIONS: Final[Mapping[str, Mapping[str, str]]] = {
    "libopenh264": {"rc_mode": "quality", "profile": "high"},
    "libx264": {"preset": "veryfast", "crf": "18"},
    # A run that waits for its file is billed: the fast mode costs a third of the good one's time.
    "libvpx-vp9": {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"},
    "libsvtav1": {"preset": "10", "crf": "24"},
}
_BT709: Final = 1
_LIMITED: Final = 1
"""Code points of ITU-T H.273: what HD screens take a video to be, said so that nobody guesses."""


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """`container` is mp4 or webm; `encoder` is FFmpeg's name."""

    container: str
    encoder: str

    @property
    def content_type(self) -> str:
        return f"video/{self.container}"


def choose(container: str, codec: VideoCodec) -> VideoFormat:
    """Raises EngineFailed if nothing here can write it: asked before the model runs."""
    av = _av()
    wanted = _ENCODERS[VideoCodec.VP9 if container == "webm" else codec]
    for encoder in wanted:
        if encoder in av.codecs_available:
            return VideoFormat(container, encoder)
    raise EngineFailed(
        f"this worker's FFmpeg has no encoder for {container}: {' or '.join(wanted)} would do; "
        "install PyAV's own wheel, or start the worker with another --video-codec"
    )


def encode(
    frames: Iterable[np.ndarray], size: tuple[int, int], fps: int, chosen: VideoFormat
) -> bytes:
    """`frames`: uint8 arrays of shape (height, width, 3), taken one by one; `size`: width and
    height, both even. The file's index is at its front, so that it plays while it arrives.

    Raises StorageFull.
    """
    av = _av()
    with (
        full_disk_named(Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory(prefix="quickthaw-video-") as folder,
    ):
        path = Path(folder) / f"video.{chosen.container}"
        # Without the library's version and the time in it, the same frames are the same file.
        settings = {"fflags": "+bitexact"}
        settings |= {"movflags": "+faststart"} if chosen.container == "mp4" else {}
        with av.open(str(path), "w", format=chosen.container, options=settings) as file:
            stream = file.add_stream(
                chosen.encoder, rate=Fraction(fps), options=dict(_OPTIONS[chosen.encoder])
            )
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            context = stream.codec_context
            context.color_primaries = context.color_trc = context.colorspace = _BT709
            context.color_range = _LIMITED
            for frame in frames:
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                    format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
                )
                file.mux(stream.encode(picture))
            file.mux(stream.encode())
        return path.read_bytes()


def _av() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise EngineFailed(
            "this worker cannot write videos: install quickthaw[media], which brings PyAV"
        ) from error
