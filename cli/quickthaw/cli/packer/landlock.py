"""Linux' Landlock: a process gives up every file but those below a few folders, for good.

The three system calls have no wrapper in libc. Numbers and layouts are those of linux/landlock.h,
the numbers the same on every architecture.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path

ABI_MIN = 2
"""Of Linux 5.19. Before it no file can be renamed from one folder into another, which is how a
snapshot's files appear whole."""

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_RULE_PATH_BENEATH = 1


class _Files(IntFlag):
    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    REFER = 1 << 13
    TRUNCATE = 1 << 14


_KNOWN_FILES = {2: 14, 3: 15, 4: 15, 5: 16}
"""By version, how many kinds of access to files it can refuse; all of them are."""
_KNOWN_FILES_MAX = 16
_TCP = 0b11
"""To listen and to connect; since version 4."""
_OUTSIDE = 0b11
"""Abstract sockets and signals of processes outside; since version 6."""
_READ = _Files.READ_FILE | _Files.READ_DIR
_WRITE = (
    _READ
    | _Files.WRITE_FILE
    | _Files.TRUNCATE
    | _Files.REMOVE_DIR
    | _Files.REMOVE_FILE
    | _Files.MAKE_DIR
    | _Files.MAKE_REG
    | _Files.REFER
)
_OF_A_FILE = _Files.READ_FILE | _Files.WRITE_FILE | _Files.TRUNCATE


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def version() -> int:
    """Of the running kernel's Landlock; 0 for none, or none that is switched on."""
    if sys.platform != "linux":
        return 0
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION))
    except OSError:
        return 0


def restrict(readable: Iterable[Path], writable: Iterable[Path]) -> None:
    """From now on this process, and all that it starts, can read below `readable`, read and write
    below `writable`, execute nothing, and open no other file. What is open stays so.

    Paths that do not exist are left out. To be called before threads start and with no new
    privileges; raises OSError where the kernel refuses it.
    """
    found = version()
    if found < ABI_MIN:
        raise OSError(f"Landlock of version {found}; {ABI_MIN} is needed")
    files = (1 << _KNOWN_FILES.get(found, _KNOWN_FILES_MAX)) - 1
    attr = _RulesetAttr(files, _TCP if found >= 4 else 0, _OUTSIDE if found >= 6 else 0)
    size = 8 if found < 4 else 16 if found < 6 else 24
    ruleset = _call(_CREATE_RULESET, ctypes.byref(attr), ctypes.c_size_t(size), ctypes.c_uint32(0))
    try:
        for paths, access in ((readable, _READ), (writable, _WRITE)):
            for path in paths:
                _allow(ruleset, path, access & files)
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, access: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_A_FILE
        rule = _PathBeneathAttr(access, descriptor)
        _call(
            _ADD_RULE,
            ctypes.c_int(ruleset),
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return result
