from __future__ import annotations

import pickle

from quickthaw.scheduler.core.commands import Peers, SendCancel
from quickthaw.scheduler.core.model import AttemptId, Digest, WorkerId

CANCEL = SendCancel(WorkerId("w1"), AttemptId("r1.1"), "why")


def test_equal_records_are_equal_and_hash_alike() -> None:
    same = SendCancel(WorkerId("w1"), AttemptId("r1.1"), "why")
    assert same == CANCEL
    assert hash(CANCEL) == hash(same)
    assert SendCancel(WorkerId("w2"), AttemptId("r1.1"), "why") != CANCEL


def test_a_record_survives_a_pickle_which_does_not_name_its_fields() -> None:
    packed = pickle.dumps(CANCEL)
    assert pickle.loads(packed) == CANCEL
    assert b"attempt_id" not in packed


def test_a_record_does_not_show_what_its_class_hides() -> None:
    assert "token" not in repr(Peers(Digest("d"), (("http://peer", "token"),)))
