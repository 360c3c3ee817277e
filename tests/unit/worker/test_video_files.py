"""Frames into files: the colours of what was drawn, in the containers that players know."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np
import pytest

from quickthaw.wire.errors import EngineFailed, StorageFull
from quickthaw.worker import video_files
from quickthaw.worker.video_files import VideoCodec, VideoFormat, choose, encode
from support.full_disk import no_file_grows_beyond

WIDTH, HEIGHT = 64, 48
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 64, 200))
FORMATS = [("mp4", codec) for codec in VideoCodec] + [("webm", VideoCodec.AUTO)]


def plain(colour: tuple[int, int, int]) -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), colour, np.uint8)


@pytest.mark.parametrize(("container", "codec"), FORMATS)
def test_colours_are_those_of_the_frames_and_are_said_to_be_an_hd_screens(
    container: str, codec: VideoCodec
) -> None:
    chosen = choose(container, codec)
    data = encode(map(plain, COLOURS), (WIDTH, HEIGHT), 6, chosen)
    with av.open(io.BytesIO(data), "r") as file:
        frames = list(file.decode(video=0))
    assert len(frames) == len(COLOURS)
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)
        found = frame.to_ndarray(format="rgb24")[HEIGHT // 2, WIDTH // 2].astype(int)
        assert np.abs(found - colour).max() <= 6, (colour, found)


@pytest.mark.parametrize("container", ["mp4", "webm"])
def test_a_full_disk_is_no_fault_of_the_model(container: str) -> None:
    """Another worker may have room."""
    chosen = choose(container, VideoCodec.AUTO)
    noise = np.random.default_rng(7).integers(0, 255, (12, HEIGHT, WIDTH, 3), dtype=np.uint8)
    with no_file_grows_beyond(10_000), pytest.raises(StorageFull, match="while writing"):
        encode(noise, (WIDTH, HEIGHT), 6, chosen)


def test_a_video_plays_while_it_arrives() -> None:
    data = encode(map(plain, COLOURS), (WIDTH, HEIGHT), 6, choose("mp4", VideoCodec.AUTO))
    assert 0 < data.find(b"moov") < data.find(b"mdat")


@pytest.mark.parametrize(
    ("codec", "entry", "settings"),
    [
        (VideoCodec.VP9, b"vp09", b"vpcC"),
        (VideoCodec.H264, b"avc1", b"avcC"),
        (VideoCodec.AV1, b"av01", b"av1C"),
    ],
)
def test_an_mp4_tells_players_which_decoder_it_wants(
    codec: VideoCodec, entry: bytes, settings: bytes
) -> None:
    """Its content type names the container only, so browsers look here."""
    chosen = choose("mp4", codec)
    head, _, _ = encode(map(plain, COLOURS), (WIDTH, HEIGHT), 6, chosen).partition(b"mdat")
    assert chosen.content_type == "video/mp4"
    assert entry in head
    assert settings in head


@pytest.mark.parametrize(("container", "codec"), FORMATS)
def test_the_same_frames_are_the_same_file(container: str, codec: VideoCodec) -> None:
    chosen = choose(container, codec)
    one, other = (encode(map(plain, COLOURS), (WIDTH, HEIGHT), 6, chosen) for _ in range(2))
    assert one == other


def test_a_webm_holds_vp9_whatever_is_asked_for_in_an_mp4() -> None:
    assert choose("webm", VideoCodec.H264) == VideoFormat("webm", "libvpx-vp9")


def test_an_encoder_under_the_gpl_is_used_only_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Everything:
        codecs_available = frozenset({"libx264", "libvpx-vp9"})

    monkeypatch.setattr(video_files, "_av", Everything)
    assert choose("mp4", VideoCodec.AUTO).encoder == "libvpx-vp9"
    assert choose("mp4", VideoCodec.H264).encoder == "libx264"
    Everything.codecs_available |= {"libopenh264"}
    assert {choose("mp4", codec).encoder for codec in (VideoCodec.AUTO, VideoCodec.H264)} == {
        "libopenh264"
    }


def test_a_library_without_an_encoder_is_named_with_what_would_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Nothing:
        codecs_available = frozenset({"h264"})

    monkeypatch.setattr(video_files, "_av", Nothing)
    with pytest.raises(EngineFailed, match=r"libopenh264 or libvpx-vp9 would do.*--video-codec"):
        choose("mp4", VideoCodec.AUTO)


def test_frames_are_taken_one_by_one_and_an_error_among_them_is_the_callers() -> None:
    taken = 0

    def frames() -> Iterator[np.ndarray]:
        nonlocal taken
        for colour in COLOURS:
            taken += 1
            if taken == 4:
                raise KeyError("no more")
            yield plain(colour)

    with pytest.raises(KeyError):
        encode(frames(), (WIDTH, HEIGHT), 6, choose("mp4", VideoCodec.AUTO))
    assert taken == 4
