"""Samples to a sound file: WAV by the standard library, FLAC through PyAV."""

from __future__ import annotations

import importlib
import io
import wave
from typing import Any

import numpy as np

from quickthaw.wire.errors import EngineFailed

CONTENT_TYPES = {"wav": "audio/wav", "flac": "audio/flac"}
_BYTES_PER_SAMPLE = 2
_LOUDEST = 32767


def check(output_format: str) -> None:
    """Raises EngineFailed if it cannot be written here: asked before the model runs."""
    if output_format == "flac":
        _av()


def encode(samples: np.ndarray, sample_rate: int, output_format: str) -> bytes:
    """`samples`: floats of shape (channels, samples), 1 the loudest; what is louder is cut off."""
    loud = np.clip(samples, -1.0, 1.0) * _LOUDEST
    interleaved = np.ascontiguousarray(np.rint(loud).astype("<i2").T)
    if output_format == "flac":
        return _flac(interleaved, sample_rate)
    content = io.BytesIO()
    with wave.open(content, "wb") as file:
        file.setnchannels(interleaved.shape[1])
        file.setsampwidth(_BYTES_PER_SAMPLE)
        file.setframerate(sample_rate)
        file.writeframes(interleaved.tobytes())
    return content.getvalue()


def _flac(interleaved: np.ndarray, sample_rate: int) -> bytes:
    av = _av()
    content = io.BytesIO()
    channels = interleaved.shape[1]
    layout = "mono" if channels == 1 else "stereo" if channels == 2 else f"{channels} channels"
    with av.open(content, "w", format="flac", options={"fflags": "+bitexact"}) as file:
        stream = file.add_stream("flac", rate=sample_rate, layout=layout)
        # One row: the channels take turns in it.
        frame = av.AudioFrame.from_ndarray(interleaved.reshape(1, -1), "s16", layout)
        frame.sample_rate = sample_rate
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return content.getvalue()


def _av() -> Any:
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise EngineFailed(
            "this worker cannot write FLAC: install quickthaw[media], which brings PyAV, or ask "
            "for wav"
        ) from error
