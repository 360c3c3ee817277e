"""Every error has one status and one reason, and survives the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from quickthaw.v1 import catalog_pb2, catalog_pb2_grpc
from quickthaw.wire import errors
from quickthaw.wire.limits import CHANNEL_OPTIONS, SERVER_OPTIONS
from quickthaw.wire.status import STATUS, ErrorInterceptor, error_from_rpc


def every_error() -> list[type[errors.QuickthawError]]:
    def below(root: type[errors.QuickthawError]) -> list[type[errors.QuickthawError]]:
        return [each for child in root.__subclasses__() for each in (child, *below(child))]

    return below(errors.QuickthawError)


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_that_is_no_success(kind: type[errors.QuickthawError]) -> None:
    assert STATUS[kind] not in (grpc.StatusCode.OK, grpc.StatusCode.UNKNOWN)


def test_no_two_errors_share_a_reason() -> None:
    reasons = [kind.reason for kind in every_error()]
    assert len(reasons) == len(set(reasons)) == len(errors.BY_REASON)


def test_the_tree_in_the_documentation_is_the_tree() -> None:
    assert errors.__doc__ is not None
    for kind in every_error():
        assert f"─ {kind.__name__} " in errors.__doc__ + " " or kind.__name__ in errors.__doc__


def test_a_child_is_a_special_case_of_its_parents_status() -> None:
    """A caller that knows only the status must treat both the same way."""
    for kind in every_error():
        parent = kind.__mro__[1]
        if parent is not errors.QuickthawError:
            assert STATUS[kind] is STATUS[parent], kind


class Raising(catalog_pb2_grpc.CatalogServicer):
    """Raises what the test says, from a unary and from a streaming-shaped call."""

    def __init__(self) -> None:
        self.error: BaseException = errors.Internal("unset")

    async def GetModel(
        self, request: catalog_pb2.GetModelRequest, context: object
    ) -> catalog_pb2.Model:
        raise self.error


@pytest.fixture
async def raising() -> AsyncIterator[tuple[Raising, catalog_pb2_grpc.CatalogAsyncStub, list[str]]]:
    counted: list[str] = []
    servicer = Raising()  # type: ignore[abstract] # only the stubs call the base abstract
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(lambda _method, reason: counted.append(reason))],
        options=SERVER_OPTIONS,
    )
    catalog_pb2_grpc.add_CatalogServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS) as channel:
        yield servicer, catalog_pb2_grpc.CatalogStub(channel), counted
    await server.stop(None)


async def test_every_error_crosses_a_real_server_whole(
    raising: tuple[Raising, catalog_pb2_grpc.CatalogAsyncStub, list[str]],
) -> None:
    servicer, stub, counted = raising
    for kind in every_error():
        sent = servicer.error = kind(
            f"what happened: {kind.__name__} — naïve ✓",
            violations=(errors.FieldViolation("input.image_size.width", "must be at most 64"),),
            retry_delay_seconds=1.5,
            metadata={"model": "test/tiny"},
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetModel(catalog_pb2.GetModelRequest(id="x"))
        assert caught.value.code() is STATUS[kind]
        received = error_from_rpc(caught.value)
        assert type(received) is kind
        assert received.message == sent.message
        assert received.violations == sent.violations
        assert received.retry_delay_seconds == sent.retry_delay_seconds
        assert received.metadata == sent.metadata
    assert counted == [kind.reason for kind in every_error()]


async def test_an_error_that_is_not_ours_is_told_opaquely_and_logged_in_full(
    raising: tuple[Raising, catalog_pb2_grpc.CatalogAsyncStub, list[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    servicer, stub, _counted = raising
    servicer.error = ValueError("the password is hunter2")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetModel(catalog_pb2.GetModelRequest(id="x"))
    received = error_from_rpc(caught.value)
    assert isinstance(received, errors.Internal)
    assert "hunter2" not in received.message
    incident = received.metadata["incident"]
    assert incident in received.message
    logged = next(record for record in caplog.records if incident in record.getMessage())
    assert logged.exc_info is not None
    assert "hunter2" in str(logged.exc_info[1])


def test_a_reason_of_a_newer_peer_is_kept() -> None:
    error = errors.error_for_reason("SOMETHING_NEW", "text")
    assert isinstance(error, errors.Internal)
    assert error.metadata == {"reason": "SOMETHING_NEW"}
