"""A finished request as a realtime result: the output object, with its files' bytes in it."""

from __future__ import annotations

from collections.abc import Sequence

from quickthaw.gateway.artifacts import data_uri, read_whole
from quickthaw.gateway.calls import Call
from quickthaw.gateway.fal.frames import Packed
from quickthaw.gateway.fal.output import file_object, output_with
from quickthaw.v1 import types_pb2


async def packed_output(
    call: Call, finished: types_pb2.Request, sent: Sequence[bytes]
) -> dict[str, Packed]:
    """Each file has `url`, and `content` unless the files together are too large to send.

    `sent`: the files' bytes if they came with the end, or nothing.
    """
    gateway = call.gateway
    total = sum(artifact.size_bytes for artifact in finished.artifacts)
    inlined = total <= gateway.limits.inline_bytes_max
    files, contents = [], []
    for index, artifact in enumerate(finished.artifacts):
        data: bytes | None = None
        if sent:
            data = sent[index]
        elif inlined:
            data = await read_whole(gateway, call.credential, artifact.uri)
        # Without a key of its own the gateway cannot read files for a link's holder.
        if data is not None and (call.sync_mode or not gateway.own_credential):
            url = data_uri(artifact.content_type, data)
        else:
            url = gateway.links.url(artifact.uri)
        files.append(file_object(artifact, url))
        contents.append(data)
    output = output_with(finished, files)
    by_url = {str(file["url"]): data for file, data in zip(files, contents, strict=True)}
    packed: dict[str, Packed] = dict(output.items())
    for name in ("images", "video", "audio_file"):
        packed |= {name: _with_content(output[name], by_url)} if name in output else {}
    return packed


def _with_content(value: object, by_url: dict[str, bytes | None]) -> Packed:
    """A file object, or a list of them, with each one's bytes."""
    if isinstance(value, list):
        return [_with_content(file, by_url) for file in value]
    assert isinstance(value, dict)
    data = by_url.get(str(value.get("url")))
    return value if data is None else {**value, "content": data}
