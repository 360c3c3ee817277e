"""What a request made, read as a whole, and files inside a text."""

from __future__ import annotations

import base64

from quickthaw.gateway.context import Gateway
from quickthaw.gateway.platform import Credential
from quickthaw.v1 import types_pb2


def data_uri(content_type: str, data: bytes) -> str:
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"


async def read_whole(gateway: Gateway, credential: Credential, uri: str) -> bytes:
    """For files whose size is known to be bounded."""
    data = bytearray()
    async for part in gateway.platform.read_artifact(credential, uri):
        data += part.data
    return bytes(data)


async def read_data_uri(
    gateway: Gateway, credential: Credential, artifact: types_pb2.Artifact
) -> str:
    data = await read_whole(gateway, credential, artifact.uri)
    return data_uri(artifact.content_type, data)
