"""What tokenizers' and image processors' files may say, checked before a library reads them.

The libraries trust these files: a number in them becomes an allocation in native code that ends the
process where it fails, a pattern runs over every prompt for as long as it likes, a path is opened.
So their structure is looked at here first, and what is unusual is refused.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from quickthaw.snapshot.fields import UNSAFE_CONFIG_KEYS, JsonValue, parse_object
from quickthaw.snapshot.format import Problem, invalid

ITEMS_MAX = 4_000_000
"""Of one file; a vocabulary of 250,000 pieces with its merges has a quarter of that."""
VOCABULARY_MAX = 1_000_000
TOKEN_ID_MAX = 1 << 24
TOKEN_CHARS_MAX = 1024
ADDED_TOKENS_MAX = 4096
PARTS_MAX = 256
"""Of a tokenizer's steps, all of them together: real ones have ten."""
STEPS_DEPTH_MAX = 6
"""Native parsers try one variant after the other, so their time doubles with each level."""
LENGTH_MAX = 65_536
TEXT_TOKENS_MAX = 1 << 18
"""That a tokenizer may say its model reads: twice what Qwen's do."""
UNLIMITED_MIN = 10**20
"""From here on one of `_LENGTHS` means none; below, memory is set aside for so many tokens."""
PICTURE_SIDE_MAX = 8192
PICTURE_PIXELS_MAX = 1 << 24
PATCH_SIDE_MAX = 64
TEXT_CHARS_MAX = 65_536

PATTERNS = frozenset(
    {
        r"\s+",
        r" {2,}",
        r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    }
)
"""The regular expressions of the tokenizers there are classes for. An engine that backtracks may
take forever over another one, which cannot be seen by looking at it."""
_FILE_SETTINGS = frozenset(
    {"vocab_file", "merges_file", "tokenizer_file", "spm_file", "sp_model", "vocab", "merges"}
)

_BY_AREA = frozenset({"transformers.Qwen2VLProcessor"})
"""What says how many pixels a picture may have and not how wide it may be, and repeats pictures
until they fill a patch of time."""
_AREAS = ("min_pixels", "max_pixels", "size")
_PATCHES = ("patch_size", "merge_size", "temporal_patch_size")
_LENGTHS = frozenset({"model_max_length", "max_length"})


def check_processor_file(name: str, content: bytes, where: str, class_path: str = "") -> None:
    """Raises `SnapshotInvalid` for what a tokenizer or image processor could be harmed by.

    `class_path`: of what will read the file, which decides what its numbers mean.
    """
    if not name.endswith(".json"):
        return  # merges.txt and spiece.model: as long as they are, and no longer
    document = parse_object(content, where, ITEMS_MAX)
    match name:
        case "tokenizer.json":
            _check_tokenizer(document, where)
        case "tokenizer_config.json":
            _check_settings(document, where)
        case "preprocessor_config.json":
            if class_path in _BY_AREA:
                document = _without_areas(document, where)
            _check_settings(document, where)
            _check_numbers(document, PICTURE_SIDE_MAX, where)
        case _:
            _check_vocabulary(document, where)


def _without_areas(document: Mapping[str, JsonValue], where: str) -> dict[str, JsonValue]:
    """The settings beside those of areas and of patches, which are looked at here."""
    for names, most in ((_AREAS, PICTURE_PIXELS_MAX), (_PATCHES, PATCH_SIDE_MAX)):
        _check_numbers({name: document.get(name) for name in names}, most, where)
    return {name: value for name, value in document.items() if name not in _AREAS}


def _check_settings(document: Mapping[str, JsonValue], where: str) -> None:
    for key, value in document.items():
        place = f"{where}, {key}"
        if key in UNSAFE_CONFIG_KEYS and key != "_name_or_path":
            invalid(Problem.UNSAFE, place, UNSAFE_CONFIG_KEYS[key])
        if key in _FILE_SETTINGS and value is not None:
            invalid(Problem.UNSAFE, place, "names a file; a processor reads its own files only")
        match value:
            case str() if len(value) > TEXT_CHARS_MAX:
                invalid(Problem.MANIFEST, place, f"is longer than {TEXT_CHARS_MAX} characters")
            case list() | dict():
                if len(value) > ADDED_TOKENS_MAX:
                    invalid(Problem.MANIFEST, place, f"has more than {ADDED_TOKENS_MAX} items")
                _check_numbers(value, TOKEN_ID_MAX, place)
            case int() | float() if key not in _LENGTHS and value > LENGTH_MAX:
                invalid(Problem.MANIFEST, place, f"is over {LENGTH_MAX}")
            case int() | float() if TEXT_TOKENS_MAX < value < UNLIMITED_MIN:
                invalid(Problem.MANIFEST, place, f"is over {TEXT_TOKENS_MAX}")
            case _:
                pass
    ids = document.get("added_tokens_decoder")
    for token in ids if isinstance(ids, dict) else ():
        if not (token.isascii() and token.isdigit() and int(token) <= TOKEN_ID_MAX):
            invalid(Problem.MANIFEST, f"{where}, added_tokens_decoder", f"{token!r:.40} is no id")


def _check_tokenizer(document: Mapping[str, JsonValue], where: str) -> None:
    known = {"version", "truncation", "padding", "added_tokens", "model"}
    steps = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
    if unknown := document.keys() - known - {*steps}:
        invalid(Problem.MANIFEST, where, f"{min(unknown)!r:.80} is no part of a tokenizer")
    left = PARTS_MAX
    for step in steps:
        left = _check_step(document.get(step), f"{where}, {step}", STEPS_DEPTH_MAX * 2, left)
    for key in ("truncation", "padding"):
        _check_numbers(document.get(key), LENGTH_MAX, f"{where}, {key}")
    added = document.get("added_tokens")
    if isinstance(added, list) and len(added) > ADDED_TOKENS_MAX:
        invalid(Problem.MANIFEST, f"{where}, added_tokens", f"are over {ADDED_TOKENS_MAX}")
    _check_numbers(added, TOKEN_ID_MAX, f"{where}, added_tokens")
    _check_model(document.get("model"), f"{where}, model")


def _check_model(model: JsonValue, where: str) -> None:
    if not isinstance(model, dict) or model.get("type") not in ("BPE", "Unigram"):
        invalid(Problem.MANIFEST, where, "must be of type BPE or Unigram")
    for key, value in model.items():
        if key not in ("vocab", "merges"):
            _check_numbers(value, TOKEN_ID_MAX, f"{where}.{key}")
    vocabulary, merges = model.get("vocab"), model.get("merges", [])
    if isinstance(merges, list) and len(merges) > VOCABULARY_MAX:
        invalid(Problem.MANIFEST, f"{where}.merges", f"has over {VOCABULARY_MAX} items")
    match vocabulary:
        case dict():
            for known, number in vocabulary.items():
                if type(number) is not int:
                    invalid(Problem.MANIFEST, f"{where}.vocab", f"{known[:40]!r} has no id")
            _check_vocabulary(vocabulary, f"{where}.vocab")
        case list() if len(vocabulary) <= VOCABULARY_MAX:
            for item in vocabulary:
                piece = item[0] if isinstance(item, list) and item else None
                if not isinstance(piece, str) or len(piece) > TOKEN_CHARS_MAX:
                    invalid(Problem.MANIFEST, f"{where}.vocab", f"{item!r:.80} is no piece")
        case _:
            invalid(Problem.MANIFEST, f"{where}.vocab", f"must be at most {VOCABULARY_MAX} pieces")


def _check_vocabulary(pieces: Mapping[str, JsonValue], where: str) -> None:
    if len(pieces) > VOCABULARY_MAX:
        invalid(Problem.MANIFEST, where, f"has over {VOCABULARY_MAX} items")
    for piece, number in pieces.items():
        if len(piece) > TOKEN_CHARS_MAX:
            invalid(Problem.MANIFEST, where, f"{piece[:40]!r}... is too long for a piece")
        if type(number) is int and not -1 <= number <= TOKEN_ID_MAX:
            invalid(Problem.MANIFEST, where, f"{piece[:40]!r} has the id {number!r:.40}")


def _check_step(step: JsonValue, where: str, depth: int, left: int) -> int:
    """Looks through one step and those in it; returns how many more parts there may be."""
    if depth < 0 or left < 0:
        invalid(Problem.MANIFEST, where, "has more steps, or deeper in each other, than are read")
    match step:
        case dict():
            for key, value in step.items():
                if key == "Regex" and not (isinstance(value, str) and value in PATTERNS):
                    invalid(
                        Problem.UNSAFE,
                        where,
                        f"the pattern {value!r:.80} is not one of the known ones, and an unknown "
                        "one may take forever over some prompt",
                    )
                if key == "precompiled_charsmap":
                    _check_charsmap(value, where)
                    continue
                left = _check_step(value, where, depth - 1, left - 1)
        case list():
            for value in step:
                left = _check_step(value, where, depth - 1, left - 1)
        case str() if len(step) > TOKEN_CHARS_MAX:
            invalid(Problem.MANIFEST, where, f"has a text over {TOKEN_CHARS_MAX} characters")
        case int() | float():
            _check_numbers(step, TOKEN_ID_MAX, where)
        case _:
            pass
    return left


def _check_charsmap(value: JsonValue, where: str) -> None:
    """SentencePiece's normalisation: the size of a table, the table, texts that it points into."""
    try:
        content = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
    except (binascii.Error, ValueError):
        content = b""
    size = int.from_bytes(content[:4], "little")
    if len(content) < 4 or size % 4 or size > len(content) - 4:
        invalid(Problem.MANIFEST, f"{where}.precompiled_charsmap", "has a table of impossible size")


def _check_numbers(value: JsonValue, maximum: int, where: str) -> None:
    match value:
        case int() | float() if not isinstance(value, bool) and not -maximum <= value <= maximum:
            invalid(Problem.MANIFEST, where, f"has the number {value!r:.40}, over {maximum}")
        case list():
            for item in value:
                _check_numbers(item, maximum, where)
        case dict():
            for key, item in value.items():
                _check_numbers(item, maximum, f"{where}.{key}"[:200])
        case _:
            pass
