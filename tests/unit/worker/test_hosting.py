"""Messages between a fleet and a worker host, and the descriptors that go with them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from quickthaw.wire.hosting import (
    LINE_BYTES_MAX,
    Ended,
    HostGone,
    HostMessage,
    Receiver,
    Signal,
    Start,
    Started,
    encode,
    new_slab,
    send,
)
from support.descriptors import few_descriptors_left


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, its = socket.socketpair()
    with ours, its:
        yield ours, its


def test_each_start_comes_with_its_own_descriptors(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, its = ends
    receiver = Receiver(its)
    starts = [Start(f"w-{index}", ("--flag", "value")) for index in range(2)]
    for start in starts:
        files = [(tmp_path / f"{start.worker_id}-{index}").open("w+") for index in range(3)]
        send(ours, encode(start), [file.fileno() for file in files])
        for file in files:
            file.close()
    send(ours, encode(Signal("w-0", 15)))
    received: list[tuple[HostMessage, tuple[int, ...]]] = []
    while len(received) < 3:
        received += receiver.receive()
    assert [message for message, _ in received] == [*starts, Signal("w-0", 15)]
    assert received[2][1] == ()
    for message, descriptors in received[:2]:
        assert isinstance(message, Start)
        for index, descriptor in enumerate(descriptors):
            assert not os.get_inheritable(descriptor)
            assert os.readlink(f"/proc/self/fd/{descriptor}").endswith(
                f"/{message.worker_id}-{index}"
            )
            os.close(descriptor)


def test_a_start_that_finds_no_room_for_its_descriptors_spoils_no_other(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, its = ends
    receiver = Receiver(its)
    with (tmp_path / "file").open("w") as file:
        for name in ("w-0", "w-1"):
            send(ours, encode(Start(name, ())), [file.fileno()] * 3)
    with few_descriptors_left(2):
        assert receiver.receive() == [(Start("w-0", ()), ())]
    ((start, descriptors),) = receiver.receive()
    assert start == Start("w-1", ())
    assert len(descriptors) == 3
    for descriptor in descriptors:
        os.close(descriptor)
    left = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in left if path.endswith("/file")]


def test_a_message_may_come_in_pieces(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, its = ends
    receiver = Receiver(its)
    data = encode(Started("w-0", 17)) + encode(Ended("w-0", -9))
    received = []
    for index in range(len(data)):
        ours.send(data[index : index + 1])
        received += receiver.receive()
    assert received == [(Started("w-0", 17), ()), (Ended("w-0", -9), ())]


@pytest.mark.parametrize(
    "line",
    [
        b"no json\n",
        b"[]\n",
        b'{"kind": "Exec"}\n',
        b'{"kind": "Started", "worker_id": "w"}\n',
        b'{"kind": "Start", "worker_id": "w", "arguments": []}\n',  # without its descriptors
    ],
)
def test_nonsense_ends_the_conversation(
    ends: tuple[socket.socket, socket.socket], line: bytes
) -> None:
    ours, its = ends
    ours.send(line)
    with pytest.raises(HostGone):
        Receiver(its).receive()


def test_a_line_without_end_is_given_up(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, its = ends
    receiver = Receiver(its)

    def talk() -> None:
        for _ in range(LINE_BYTES_MAX // 1024 + 2):
            ours.send(b"x" * 1024)
            receiver.receive()

    with pytest.raises(HostGone, match="longer than"):
        talk()


def test_the_end_of_the_other_side_is_told_and_nothing_stays_open(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, its = ends
    receiver = Receiver(its)
    with (tmp_path / "left").open("w") as file:
        send(ours, b"half a mess", [file.fileno()])
    assert receiver.receive() == []
    ours.close()
    with pytest.raises(HostGone, match="closed"):
        receiver.receive()
    left = [os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert not [path for path in left if path.endswith("/left")]


def test_a_slab_is_memory_that_lives_as_long_as_somebody_has_it_open() -> None:
    first = new_slab("quickthaw-test")
    second = os.dup(first)
    os.write(first, b"weights")
    os.close(first)
    assert os.pread(second, 7, 0) == b"weights"
    os.close(second)
