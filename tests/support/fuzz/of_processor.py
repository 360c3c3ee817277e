"""Mutations of tokenizers' and image processors' files."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

from quickthaw.snapshot.manifest import PROCESSOR_FILES
from support.fuzz.draft import Draft, Json
from support.fuzz.values import INTEGERS, TEXTS, change_somewhere, value

_EVIL = "(a|a)*(a|a)*(a+)+$"


def _nested(random_: random.Random, kind: str, key: str) -> Any:
    """Sequences in sequences: parsers that try variants in turn take twice as long a level."""
    found: Any = {"type": "Nothing"}
    for _ in range(random_.choice((3, 12, 40, 200))):
        found = {"type": kind, key: [found]}
    return found


def tokenizer_json(random_: random.Random, draft: Draft, canary: str) -> str:
    names = [key for key in draft.blobs if key[1] == "tokenizer.json"]
    if not names:
        return "nothing"
    key = random_.choice(names)
    made, document = Json(), json.loads(draft.blobs[key])
    match random_.randrange(13):
        case 0:
            document["pre_tokenizer"] = {
                "type": "Split",
                "pattern": {"Regex": random_.choice((_EVIL, "(", "a{1,100000}", "\\p{X}", ""))},
                "behavior": random_.choice(("Isolated", "Removed", "x")),
                "invert": False,
            }
        case 1:
            document["normalizer"] = {
                "type": "Replace",
                "pattern": {"Regex": _EVIL},
                "content": "x" * random_.choice((1, 100_000)),
            }
        case 2:
            document["normalizer"] = _nested(random_, "Sequence", "normalizers")
        case 3:
            document["pre_tokenizer"] = _nested(random_, "Sequence", "pretokenizers")
        case 4:
            charsmap = base64.b64encode(random_.randbytes(random_.choice((0, 1, 4, 64, 4096))))
            document["normalizer"] = {
                "type": "Precompiled",
                "precompiled_charsmap": charsmap.decode(),
            }
        case 5:
            document["padding"] = {
                "strategy": {"Fixed": random_.choice(INTEGERS)},
                "direction": "Right",
                "pad_to_multiple_of": random_.choice((None, 0, 10**9)),
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            }
        case 6:
            document["truncation"] = {
                "direction": "Right",
                "max_length": random_.choice(INTEGERS),
                "strategy": "LongestFirst",
                "stride": random_.choice(INTEGERS),
            }
        case 7 if isinstance(document["model"]["vocab"], dict):
            vocab = document["model"]["vocab"]
            for token in random_.choices(list(vocab), k=random_.choice((1, 5, 100))):
                vocab[token] = random_.choice((*INTEGERS, vocab[token] + 1))
        case 8:
            merges = document["model"].get("merges", [])
            merges.append(random_.choice((["a", "nowhere"], "a b c", ["a"], ["", ""], 7, "a")))
        case 9:
            document["added_tokens"] = [
                {
                    "id": random_.choice(INTEGERS),
                    "content": random_.choice(TEXTS),
                    **dict.fromkeys(
                        ("single_word", "lstrip", "rstrip", "normalized", "special"), True
                    ),
                }
                for _ in range(random_.choice((1, 2, 1000)))
            ]
        case 10:
            document["post_processor"] = {
                "type": "TemplateProcessing",
                "single": [{"Sequence": {"id": "A", "type_id": 0}}] * random_.choice((1, 50_000)),
                "pair": [{"SpecialToken": {"id": "nowhere", "type_id": 2**31}}],
                "special_tokens": {},
            }
        case 11:
            document["model"] = random_.choice(
                (
                    {"type": "Unigram", "unk_id": 2**40, "vocab": [["a", -1.0]]},
                    {"type": "Unigram", "unk_id": 0, "vocab": []},
                    {"type": "WordLevel", "vocab": {}, "unk_token": "x"},
                    {"type": "WordPiece", "vocab": {"a": 0}, "max_input_chars_per_word": 2**63},
                    {"type": "BPE", "vocab": {}, "merges": [], "dropout": 7.0},
                    {"type": "BPE", "vocab": {}, "merges": [], "cache_capacity": 2**40},
                )
            )
        case _:
            change_somewhere(random_, document, made, canary)
    draft.blobs[key] = made.encode(document)
    return "tokenizer.json"


_SETTINGS: dict[str, tuple[Any, ...]] = {
    "auto_map": ({"AutoTokenizer": ["x.y", None]},),
    "extra_ids": (10**8, 10**9, -1, 100),
    "model_max_length": (*INTEGERS, None, "x"),
    "added_tokens_decoder": ({"0": {"content": "a"}}, {str(10**12): {"content": "b"}}, {"x": 7}),
    "tokenizer_class": ("CLIPTokenizer", "os.system", "AutoTokenizer", "LlamaTokenizer", None),
    "chat_template": ("{{ ''.__class__ }}", "{% for a in range(10**9) %}{% endfor %}"),
    "use_fast": (False, True),
    "backend": ("mistral", "sentencepiece", "os.system"),
    "additional_special_tokens": (["<x>"] * 2000, ["a"], 7),
    "extra_special_tokens": ({"a": "b"}, ["<y>"] * 2000, 7),
    "pad_token": ("nowhere", None, 7, {"content": "a", "__type": "AddedToken"}),
    "legacy": (True, False),
    "name_or_path": ("http://127.0.0.1:9/x",),
    "processor_class": ("os.system",),
    "trust_remote_code": (True,),
    "clean_up_tokenization_spaces": (True,),
    "padding_side": ("left", "x"),
    "split_special_tokens": (True,),
    "size": ({"height": 10**9, "width": 10**9}, {"shortest_edge": 10**9}, 10**9, -1, "x"),
    "crop_size": ({"height": 10**9, "width": 10**9}, 0, -1),
    "image_mean": ([0.0] * 4096, "x"),
    "rescale_factor": (1e308, 0, "x"),
}


def settings(random_: random.Random, draft: Draft, canary: str) -> str:
    """`tokenizer_config.json` and its like: settings that name files, code or sizes."""
    names = [key for key in draft.blobs if key[1].endswith("_config.json")]
    if not names:
        return "nothing"
    key = random_.choice(names)
    made, document = Json(), json.loads(draft.blobs[key])
    match random_.randrange(4):
        case 0:
            change_somewhere(random_, document, made, canary)
        case 1:
            setting = random_.choice(
                ("vocab_file", "merges_file", "tokenizer_file", "vocab", "merges", "spm_file")
            )
            document[setting] = random_.choice((canary, f"{canary}/secret.json", "/etc/passwd"))
        case _:
            setting = random_.choice(list(_SETTINGS))
            document[setting] = random_.choice(_SETTINGS[setting])
    draft.blobs[key] = made.encode(document)
    return "processor.settings"


def files(random_: random.Random, draft: Draft, canary: str) -> str:
    """More, fewer and other files."""
    processor = random_.choice(draft.document["processors"])
    name = random_.choice([*PROCESSOR_FILES, "../x", "pytorch_model.bin", "tokenizer.py", "\0"])
    own = [key for key in draft.blobs if key[0] == processor["name"]]
    match random_.randrange(4):
        case 0 if own:
            del draft.blobs[random_.choice(own)]
        case 1 if own:
            key = random_.choice(own)
            processor["files"].pop(key[1], None)
        case 2 if own:
            draft.blobs[random_.choice(own)] = _content(random_)
        case _:
            processor["files"][name] = {}
            draft.blobs[processor["name"], name] = _content(random_)
    return "processor.files"


def _content(random_: random.Random) -> bytes:
    return random_.choice(
        (
            b"",
            b"{}",
            b"[]",
            b"null",
            b"\xff" * 100,
            random_.randbytes(500),
            b"[" * 50_000,
            b'{"a":' + b"1" * 5000 + b"}",
            b"#version: 0.2\na b\n",
            b"a b c\n" * 1000,
            b'{"vocab_file": "/etc/passwd"}',
            b'{"<unk>": 0, "a": 1}',
            b"\x0a\xff\xff\xff\xff\x7f" + bytes(50),
        )
    )


def blob_claims(random_: random.Random, draft: Draft, canary: str) -> str:
    """What the manifest says of a blob."""

    def change(document: dict[str, Any]) -> None:
        entries = [e for part in document["processors"] for e in part["files"].values()]
        if entries:
            entry = random_.choice(entries)
            entry[random_.choice(("digest", "bytes"))] = random_.choice(
                (*INTEGERS, *TEXTS, value(random_, draft.json, canary))
            )

    draft.late.append(change)
    return "blob.claims"


MUTATIONS: tuple[tuple[int, Callable[[random.Random, Draft, str], str]], ...] = (
    (8, tokenizer_json),
    (7, settings),
    (4, files),
    (2, blob_claims),
)
