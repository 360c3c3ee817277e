"""Output files: whole and checked, or not there at all."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from quickthaw.client import Artifact, AsyncClient, Client
from quickthaw.client.convert import artifact_from_wire
from quickthaw.v1 import inference_pb2
from quickthaw.wire import errors
from support import answers
from support.fake_platform import KEY, QUICK, FakePlatform, Script, a_platform

CONTENT = random.Random(7).randbytes(100_000)
CHUNK_BYTES = 4096

Rig: TypeAlias = tuple[FakePlatform, Client]


@pytest.fixture
def rig() -> Iterator[tuple[FakePlatform, Client]]:
    with a_platform() as both:
        yield both


def an_artifact(content: bytes = CONTENT, name: str = "0.png") -> Artifact:
    return artifact_from_wire(answers.an_artifact(content, name))


def sends(content: bytes, record: bytes = CONTENT) -> Script:
    """A script that sends `content` with the record of `record`."""
    return lambda _: answers.chunks(content, answers.an_artifact(record), CHUNK_BYTES)


def test_an_artifact_is_read_whole(rig: Rig) -> None:
    platform, client = rig
    platform.scripts["ReadArtifact"] = sends(CONTENT)
    assert client.read_artifact(an_artifact()) == CONTENT
    assert client.read_artifact("artifacts/r/0.png") == CONTENT


def test_an_artifact_is_saved_under_its_name_in_a_folder(rig: Rig, tmp_path: Path) -> None:
    platform, client = rig
    platform.scripts["ReadArtifact"] = sends(CONTENT)
    path = client.save_artifact(an_artifact(), tmp_path)
    assert path == tmp_path / "0.png"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["0.png"]


def test_a_changed_byte_is_found_and_leaves_no_file(rig: Rig, tmp_path: Path) -> None:
    platform, client = rig
    platform.scripts["ReadArtifact"] = sends(b"x" + CONTENT[1:])
    target = tmp_path / "picture.png"
    target.write_bytes(b"the older picture")
    with pytest.raises(errors.ArtifactCorrupt, match="SHA-256"):
        client.save_artifact(an_artifact(), target)
    assert target.read_bytes() == b"the older picture"
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]
    assert len(platform.calls("ReadArtifact")) == 1


def test_the_record_of_the_request_is_what_counts_not_the_servers_word(rig: Rig) -> None:
    platform, client = rig
    # Bytes and record changed together: consistent, but not what the request's record says.
    other = CONTENT[::-1]
    platform.scripts["ReadArtifact"] = sends(other, record=other)
    with pytest.raises(errors.ArtifactCorrupt):
        client.read_artifact(an_artifact())


def test_more_bytes_than_promised_are_refused_as_they_come(rig: Rig) -> None:
    platform, client = rig
    platform.scripts["ReadArtifact"] = sends(CONTENT + b"more")
    with pytest.raises(errors.ArtifactCorrupt, match="longer"):
        client.read_artifact(an_artifact())


def test_a_transfer_that_breaks_off_is_begun_again(rig: Rig) -> None:
    platform, client = rig
    tries: list[int] = []

    async def twice(
        _message: inference_pb2.ReadArtifactRequest,
    ) -> AsyncIterator[inference_pb2.ReadArtifactResponse]:
        tries.append(1)
        record = answers.an_artifact(CONTENT)
        content = CONTENT[:5000] if len(tries) == 1 else CONTENT
        async for chunk in answers.chunks(content, record, CHUNK_BYTES):
            yield chunk
        if len(tries) == 1:
            raise errors.Unavailable("going down")

    platform.scripts["ReadArtifact"] = twice
    assert client.read_artifact(an_artifact()) == CONTENT
    assert len(tries) == 2


def test_a_missing_artifact_has_its_own_error(rig: Rig, tmp_path: Path) -> None:
    platform, client = rig

    async def none(_message: object) -> AsyncIterator[inference_pb2.ReadArtifactResponse]:
        raise errors.ArtifactNotFound("no such artifact")
        yield

    platform.scripts["ReadArtifact"] = none
    with pytest.raises(errors.ArtifactNotFound):
        client.save_artifact("artifacts/r/0.png", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_name_from_the_server_cannot_lead_out_of_the_folder(rig: Rig, tmp_path: Path) -> None:
    platform, client = rig
    folder = tmp_path / "pictures"
    folder.mkdir()
    platform.scripts["ReadArtifact"] = sends(CONTENT)
    assert client.save_artifact("artifacts/r/../../evil.png", folder) == folder / "evil.png"
    assert client.save_artifact("artifacts/r/..", folder) == folder / "artifact"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["artifact", "evil.png", "pictures"]


async def test_the_asyncio_client_saves_the_same_way(tmp_path: Path) -> None:
    with FakePlatform() as platform:
        platform.scripts["ReadArtifact"] = sends(CONTENT)
        async with AsyncClient(platform.address, KEY, context=QUICK) as client:
            path = await client.save_artifact(an_artifact(), tmp_path / "p.png")
            assert path.read_bytes() == CONTENT
            assert await client.read_artifact(an_artifact()) == CONTENT
