"""System calls that reading and writing files needs none of, refused by a seccomp filter.

They are what the other walls do not cover: sockets of the file system (a container runtime's, say),
other processes' memory, mounts and namespaces, and whatever adds code to the kernel. A list of what
is forbidden and not of what is allowed: libraries of tensors may ask for anything else.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Machine:
    audit: int
    """What the kernel calls the architecture in a filter."""
    prctl: int
    numbers: tuple[int, ...]


_EVERYWHERE = (
    *(424, 425, 426, 427),  # pidfd_send_signal, io_uring_setup, _enter, _register
    *(428, 429, 430, 431, 432, 433, 442),  # open_tree, move_mount, fs*, mount_setattr
    *(434, 438),  # pidfd_open, pidfd_getfd
)
_MACHINES: Mapping[str, _Machine] = {
    "x86_64": _Machine(
        0xC000003E,
        157,
        (
            *(41, 42, 49),  # socket, connect, bind
            *(59, 322),  # execve, execveat
            *(101, 310, 311),  # ptrace, process_vm_readv, process_vm_writev
            *(155, 161, 165, 166, 272, 308),  # pivot_root, chroot, mount, umount2, unshare, setns
            *(169, 175, 176, 246, 313, 320),  # reboot, *_module, kexec_*
            *(248, 249, 250),  # add_key, request_key, keyctl
            *(298, 304, 321, 323),  # perf_event_open, open_by_handle_at, bpf, userfaultfd
        ),
    ),
    "aarch64": _Machine(
        0xC00000B7,
        167,
        (
            *(198, 203, 200),
            *(221, 281),
            *(117, 270, 271),
            *(41, 51, 40, 39, 97, 268),
            *(142, 105, 106, 104, 273, 294),
            *(217, 218, 219),
            *(241, 265, 280, 282),
        ),
    ),
}
_PR_SET_SECCOMP = 22
_MODE_FILTER = 2
_LOAD_WORD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENT_AT = 0, 4, 16
_REFUSED = 255
"""Stands for the way to the refusal until that is known."""
_PR_SET_PDEATHSIG = 1
_X32 = 0x40000000
"""Numbers from here are those of another way into the same kernel."""
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_REFUSE = 0x00050000 | errno.EPERM


class _Line(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jump_true", ctypes.c_uint8),
        ("jump_false", ctypes.c_uint8),
        ("value", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("lines", ctypes.POINTER(_Line)))


def _filter(machine: _Machine) -> list[_Line]:
    refused = (*machine.numbers, *_EVERYWHERE)
    checks = [
        _Line(_AT_LEAST, _REFUSED, 0, _X32),
        # Three lines for one call with one argument: who may clear it outlives its parent.
        _Line(_EQUAL, 0, 3, machine.prctl),
        _Line(_LOAD_WORD, 0, 0, _ARGUMENT_AT),
        _Line(_EQUAL, _REFUSED, 0, _PR_SET_PDEATHSIG),
        _Line(_LOAD_WORD, 0, 0, _NUMBER_AT),
        *(_Line(_EQUAL, _REFUSED, 0, number) for number in refused),
        _Line(_RETURN, 0, 0, _ALLOW),
    ]
    for index, line in enumerate(checks):
        if line.jump_true == _REFUSED:
            # Over the lines between it and the refusal, which is the last.
            line.jump_true = len(checks) - index - 1
    return [
        _Line(_LOAD_WORD, 0, 0, _ARCHITECTURE_AT),
        _Line(_EQUAL, 1, 0, machine.audit),
        _Line(_RETURN, 0, 0, _KILL),
        _Line(_LOAD_WORD, 0, 0, _NUMBER_AT),
        *checks,
        _Line(_RETURN, 0, 0, _REFUSE),
    ]


def refuse_system_calls() -> None:
    """For this process and all that it starts, for good. To be called before threads start and with
    no new privileges; raises OSError where the system has no such filter."""
    machine = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    if machine is None:
        raise OSError(errno.ENOSYS, f"no list of system calls for {platform.machine()}")
    lines = _filter(machine)
    program = _Program(len(lines), (_Line * len(lines))(*lines))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"seccomp: {os.strerror(error)}")
