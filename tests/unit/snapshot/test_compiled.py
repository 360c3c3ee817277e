"""What compiled code is kept under, and what is refused; nothing is compiled here."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quickthaw.snapshot.compiled import BuildPlace, CompiledCache, Untrusted, build_missing
from quickthaw.snapshot.compiled.blocks_of import digest_of, repeated_blocks
from quickthaw.snapshot.compiled.calls import NoForm, example, form_of, from_json, to_json
from quickthaw.snapshot.compiled.seal import installation_key
from quickthaw.wire.errors import FailedPrecondition
from support.other_models import tiny_audio, tiny_ltx, tiny_sd3, tiny_svd, tiny_wan
from support.tiny_models import tiny_flux, tiny_sd

CPU = torch.device("cpu")
KEY = "k" * 32


# ---- forms of calls ------------------------------------------------------------------------------

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-1000, 1000)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
    | st.builds(
        lambda shape, dtype: torch.zeros(shape, dtype=dtype),
        st.lists(st.integers(0, 3), max_size=3),
        st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
    )
    | st.sampled_from([torch.zeros(2, 1).expand(2, 3), torch.ones(1, dtype=torch.long).expand(4)])
)
arguments = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.lists(arguments, max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=4), arguments, max_size=3),
)
def test_a_form_survives_json_and_an_example_of_it_has_it(args: Any, kwargs: Any) -> None:
    form, tensors = form_of(args, kwargs)
    again = from_json(json.loads(json.dumps(to_json(form))))
    assert again == form
    made = example(form, CPU, torch.Generator().manual_seed(0))
    assert form_of(made.args, made.kwargs)[0] == form
    assert [each.shape for each in form_of(made.args, made.kwargs)[1]] == [
        each.shape for each in tensors
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2, 3), torch.zeros(3, 2).T),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (1, True),
        (1, 1.0),
        ((1,), [1]),
        (None, ()),
    ],
)
def test_what_code_depends_on_makes_another_form(one: object, other: object) -> None:
    assert form_of((one,), {}) != form_of((other,), {})
    assert form_of((), {"a": one})[0] != form_of((), {"b": one})[0]


@pytest.mark.parametrize("value", [object(), {1: 2}, torch.zeros(2, 2).to_sparse(), 1j])
def test_arguments_of_other_kinds_have_no_form(value: object) -> None:
    with pytest.raises(NoForm):
        form_of((value,), {})


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        ["tensor", "F7", [1], [1]],
        ["tensor", "F32", [-1], [1]],
        ["tensor", "F32", [True], [1]],
        ["plain", "int", True],
        ["plain", "code", "x"],
        ["dict", ["a"]],
        [["tuple"], ["dict"], ["dict"]],
        ["tuple"] * 1 + [[["tuple"]] * 3],
    ],
)
def test_a_form_from_elsewhere_is_checked(value: Any) -> None:
    with pytest.raises(NoForm):
        from_json(value)


# ---- blocks --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")  # diffusers' own business
@pytest.mark.parametrize(
    ("build", "blocks"),
    [
        (tiny_sd, {"BasicTransformerBlock"}),
        (tiny_flux, {"FluxTransformerBlock", "FluxSingleTransformerBlock"}),
        (tiny_sd3, {"JointTransformerBlock"}),
        (tiny_svd, {"BasicTransformerBlock", "TemporalBasicTransformerBlock"}),
        (tiny_wan, {"WanTransformerBlock"}),
        (tiny_ltx, {"LTXVideoTransformerBlock"}),
        (tiny_audio, {"StableAudioDiTBlock"}),
    ],
)
def test_every_familys_denoiser_has_blocks_to_compile(
    build: Callable[[int], Any], blocks: set[str]
) -> None:
    pipeline = build(0)
    denoiser = getattr(pipeline, "transformer", None) or pipeline.unet
    assert {type(block).__name__ for _, block in repeated_blocks(denoiser)} == blocks


def test_equal_blocks_share_code_and_others_do_not() -> None:
    blocks = dict(repeated_blocks(tiny_flux(0).transformer))
    others = dict(repeated_blocks(tiny_flux(1).transformer))
    assert len(blocks) == 4
    digests = {name: digest_of(block) for name, block in blocks.items()}
    assert digests["transformer_blocks.0"] == digests["transformer_blocks.1"]
    assert digests["transformer_blocks.0"] != digests["single_transformer_blocks.0"]
    assert digests == {name: digest_of(block) for name, block in others.items()}, "not the weights"


def another_dtype(block: nn.Module) -> None:
    block.to(torch.float16)


def other_heads(block: Any) -> None:
    block.attn1.heads = 1


def other_processor(block: Any) -> None:
    block.attn1.processor = object()


@pytest.mark.parametrize("change", [another_dtype, other_heads, other_processor])
def test_a_setting_that_code_depends_on_makes_another_block(change: Callable[[Any], None]) -> None:
    block = next(block for _, block in repeated_blocks(tiny_sd(0).unet))
    before = digest_of(block)
    change(block)
    assert digest_of(block) != before


# ---- the cache: only what this installation made -------------------------------------------------


class Place:
    """A cache with one entry, which is no code: nothing here runs it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key_file = folder / "compiled", folder / "compiled.key"
        self.refused = 0
        self.code = self.open().add(KEY, b"code", "tuple", {})
        self.beside = self.code.with_suffix(".json")

    def open(self) -> CompiledCache:
        return CompiledCache(self.folder, self.key_file, CPU, self._refuse)

    def _refuse(self) -> None:
        self.refused += 1


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_code_is_kept_for_its_maker_alone(place: Place) -> None:
    found = place.open().find(KEY)
    assert found is not None
    assert found.path.read_bytes() == b"code"
    assert found.outputs == "tuple"
    assert {mode(path) for path in (place.code, place.beside, place.key_file)} == {0o600}
    assert {mode(path) for path in (place.folder, place.code.parent)} == {0o700}
    assert place.open().find("m" * 32) is None
    assert place.refused == 0, "none is not refused"


def changed_code(place: Place) -> None:
    place.code.write_bytes(b"evil")


def changed_document(place: Place) -> None:
    document = json.loads(place.beside.read_text())
    place.beside.write_text(json.dumps({**document, "outputs": "tensor"}))


def no_signature(place: Place) -> None:
    document = json.loads(place.beside.read_text())
    del document["signature"]
    place.beside.write_text(json.dumps(document))


def not_json(place: Place) -> None:
    place.beside.write_text("{")


def writable_by_others(place: Place) -> None:
    place.code.chmod(0o666)


def writable_folder(place: Place) -> None:
    place.code.parent.chmod(0o777)


def a_link(place: Place) -> None:
    elsewhere = place.folder.parent / "elsewhere"
    place.code.rename(elsewhere)
    place.code.symlink_to(elsewhere)


def of_another_entry(place: Place) -> None:
    other = place.open().add("m" * 32, b"other", "tuple", {})
    other.rename(place.code)
    other.with_suffix(".json").rename(place.beside)


def of_another_machine(place: Place) -> None:
    cache = place.open()
    cache.environment = {**cache.environment, "cpu": "another"}
    cache.add(KEY, b"code", "tuple", {})


def of_another_installation(place: Place) -> None:
    place.key_file.unlink()
    place.open().add("m" * 32, b"other", "tuple", {})


@pytest.mark.parametrize(
    "damage",
    [
        changed_code,
        changed_document,
        no_signature,
        not_json,
        writable_by_others,
        writable_folder,
        a_link,
        of_another_entry,
        of_another_machine,
        of_another_installation,
    ],
)
def test_code_that_is_not_as_it_was_made_is_not_used(
    place: Place, damage: Callable[[Place], None], caplog: pytest.LogCaptureFixture
) -> None:
    cache = place.open() if damage is not of_another_installation else None
    damage(place)
    cache = cache or place.open()
    assert cache.find(KEY) is None
    assert place.refused == 1
    assert "not used" in caplog.text


def test_what_was_used_longest_ago_goes_when_there_is_too_much(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quickthaw.snapshot.compiled.cache.ENTRIES_MAX", 2)
    cache = place.open()
    second = cache.add("m" * 32, b"second", "tuple", {})
    os.utime(second, (1, 1))
    os.utime(place.code, (0, 0))
    assert cache.find(KEY) is not None, "and so it was used just now"
    cache.add("n" * 32, b"third", "tuple", {})
    assert cache.find("m" * 32) is None
    assert cache.find(KEY) is not None
    assert len(list(second.parent.iterdir())) == 4


def test_a_folder_or_key_that_others_can_touch_is_refused(place: Place) -> None:
    place.folder.chmod(0o777)
    with pytest.raises(Untrusted, match="others may write"):
        place.open()
    place.folder.chmod(0o700)
    place.key_file.chmod(0o640)
    with pytest.raises(Untrusted, match="others may read"):
        place.open()
    place.key_file.chmod(0o600)
    place.key_file.write_bytes(b"short")
    with pytest.raises(Untrusted, match="no key"):
        place.open()
    place.key_file.unlink()
    place.key_file.symlink_to("/dev/null")
    with pytest.raises(Untrusted, match="not a plain file"):
        place.open()


def test_somebody_elses_folder_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(Untrusted, match="not to us"):
        place.open()


def test_the_key_is_made_once(tmp_path: Path) -> None:
    first = installation_key(tmp_path / "key")
    assert len(first) == 32
    assert installation_key(tmp_path / "key") == first
    assert installation_key(tmp_path / "other") != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "other"]


def test_another_number_of_threads_is_another_machine(place: Place) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert place.open().find(KEY) is None
    finally:
        torch.set_num_threads(threads)
    assert place.open().find(KEY) is not None
    assert place.refused == 0


def test_without_a_compiler_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    place = BuildPlace(tmp_path / "compiled", tmp_path / "compiled.key", "cpu", 1)
    with pytest.raises(FailedPrecondition, match=r"apt-get install g\+\+"):
        build_missing(place, tmp_path, "0" * 64, [])
