"""Which errors mean that the device is lost to the process."""

from __future__ import annotations

import pytest
import torch

from quickthaw.wire.errors import EngineFailed
from quickthaw.worker.faults import ending_at_faults, is_device_fault


class CudaError(RuntimeError):
    """As torch raises it: CUDA's number beside CUDA's words."""

    def __init__(self, message: str, error_code: int) -> None:
        super().__init__(message)
        self.error_code = error_code


BROKEN = "CUDA error: an illegal memory access was encountered"


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError(BROKEN),
        CudaError("CUDA error: whatever it is called by then", 719),
        CudaError("CUDA error: tensor memory not completely freed", 721),
        CudaError("CUDA error: MPS client terminated", 810),
        RuntimeError("cuDNN error: CUDA error: invalid program counter"),
        RuntimeError("cuDNN error: CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    ],
)
def test_a_broken_context_is_a_fault(error: Exception) -> None:
    assert is_device_fault(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        CudaError("CUDA error: invalid argument", 1),
        CudaError("CUDA error: PTX JIT compiler library not found", 221),
        ValueError("an illegal memory access is what this prompt is about"),
        EngineFailed("the pipeline raised"),
    ],
)
def test_an_error_that_the_next_call_need_not_meet_is_none(error: Exception) -> None:
    assert not is_device_fault(error)


def test_a_fault_is_found_behind_what_was_made_of_it() -> None:
    wrapped = EngineFailed("the model failed")
    wrapped.__cause__ = torch.AcceleratorError(BROKEN)
    assert is_device_fault(wrapped)


def test_whoever_watches_is_told_of_faults_and_of_nothing_else() -> None:
    told: list[BaseException] = []
    with pytest.raises(ValueError, match="no fault"), ending_at_faults(told.append):
        raise ValueError("no fault")
    assert not told
    fault = torch.AcceleratorError(BROKEN)
    with pytest.raises(RuntimeError), ending_at_faults(told.append):
        raise fault
    assert told == [fault]


def test_a_lost_device_is_found_behind_a_library_s_words_wherever_the_weights_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No thread but the one that made the device has it as its current one."""
    asked: list[int] = []

    def synchronize(index: int) -> None:
        asked.append(index)
        raise torch.AcceleratorError(BROKEN)

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "memory_reserved", {0: 0, 1: 7, 2: 0}.__getitem__)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    told: list[BaseException] = []
    with pytest.raises(ValueError, match="a library"), ending_at_faults(told.append):
        raise ValueError("a library: something went wrong")
    assert asked == [1]
    assert [str(each) for each in told] == [BROKEN]
