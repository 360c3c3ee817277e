"""Mutations of component files: headers that are signed, so that the parser has to refuse them."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from quickthaw.snapshot.format import ITEM_BYTES
from support.fuzz.draft import ComponentDraft, Draft
from support.fuzz.values import INTEGERS, TEXTS, change_somewhere, value


def _chosen(random_: random.Random, draft: Draft) -> tuple[str, ComponentDraft]:
    name = random_.choice(list(draft.components))
    return name, random_.choice([draft.components[name], *draft.layers.get(name, ())])


def _tensor(random_: random.Random, part: ComponentDraft) -> dict[str, Any]:
    names = [name for name in part.header if name != "__metadata__"]
    found: dict[str, Any] = part.header[random_.choice(names)]
    return found


def header(random_: random.Random, draft: Draft, canary: str) -> str:
    """Any place of the header's JSON."""
    _, part = _chosen(random_, draft)
    return f"header.{change_somewhere(random_, part.header, part.json, canary)}"


def offsets(random_: random.Random, draft: Draft, canary: str) -> str:
    """Holes, overlaps, swaps, ends before starts, ends beyond the file."""
    _, part = _chosen(random_, draft)
    one, other = _tensor(random_, part), _tensor(random_, part)
    start, end = one["data_offsets"]
    shift = random_.choice((1, -1, 4, 256, -256, 4096, 1 << 42, end - start))
    match random_.randrange(6):
        case 0:
            one["data_offsets"] = [start + shift, end + shift]
        case 1:
            one["data_offsets"] = [start, end + shift]
        case 2:
            one["data_offsets"], other["data_offsets"] = other["data_offsets"], [start, end]
        case 3:
            one["data_offsets"] = [end, start]
        case 4:
            one["data_offsets"] = list(other["data_offsets"])
        case _:
            one["data_offsets"] = random_.choices(INTEGERS, k=random_.choice((1, 2, 3)))
    return "offsets"


def shapes(random_: random.Random, draft: Draft, canary: str) -> str:
    """Other shapes and types, of the same size where that gets deeper."""
    _, part = _chosen(random_, draft)
    tensor = _tensor(random_, part)
    shape = tensor["shape"]
    match random_.randrange(6):
        case 0:
            random_.shuffle(shape)
        case 1:
            tensor["shape"] = [1, *shape]
        case 2:
            tensor["shape"] = [*shape, *[1] * random_.choice((1, 6, 8, 9))]
        case 3:
            tensor["dtype"] = random_.choice((*ITEM_BYTES, *TEXTS))
        case 4:
            same = [name for name, size in ITEM_BYTES.items() if size == 4]
            tensor["dtype"] = random_.choice(same)
        case _:
            tensor["shape"] = random_.choices(INTEGERS, k=random_.randrange(10))
    return "shapes"


def names(random_: random.Random, draft: Draft, canary: str) -> str:
    """Renamed, repeated, missing, extra and pad tensors, and their order."""
    _, part = _chosen(random_, draft)
    found = list(part.header)
    name = random_.choice(found)
    entry = part.header[name]
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    match random_.randrange(7):
        case 0:
            del part.header[name]
        case 1:
            del part.header[name]
            part.header[random_.choice((*TEXTS, name + "x", "__metadata__", "__pad__9__"))] = entry
        case 2:
            part.header[part.json.again(name)] = entry
        case 3:
            part.header[random_.choice((*TEXTS, "extra"))] = empty
        case 4:
            random_.shuffle(found)
            part.header = {key: part.header[key] for key in found}
        case 5:
            part.header["__metadata__"] = value(random_, part.json, canary)
        case _:
            many = random_.choices((100, 1000, 200_001), (600, 390, 1))[0]
            for index in range(many):
                part.header[f"e{index}"] = empty
    return "names"


def twins(random_: random.Random, draft: Draft, canary: str) -> str:
    """A header full of names of which only the last comes twice."""
    _, part = _chosen(random_, draft)
    many = random_.choices((100, 150_000), (99, 1))[0]
    part.text = ("{" + "".join(f'"{n}":0,' for n in range(many)) + f'"{many - 1}":0}}').encode()
    return "twins"


def placing(random_: random.Random, draft: Draft, canary: str) -> str:
    """Where the data starts: padding of other bytes, other alignment, a wrong length."""
    _, part = _chosen(random_, draft)
    match random_.randrange(5):
        case 0:
            part.padding = random_.choice((b"\0", b"\n", b"x", b"{}", b"\t"))
        case 1:
            part.alignment = random_.choice((1, 8, 64, 256, 512, 8192, 1 << 16, 1 << 25))
        case 2:
            length = random_.choice((0, 1, 8, 4088, 1 << 24, 1 << 25, 1 << 40, (1 << 64) - 1))
            part.prefix = length.to_bytes(8, "little")
        case 3:
            part.prefix = random_.randbytes(random_.randrange(9))
        case _:
            text = part.encode_header()[8:]
            part.prefix = (len(text) + random_.choice((1, -1, 4096, -4096))).to_bytes(8, "little")
    return "placing"


def text(random_: random.Random, draft: Draft, canary: str) -> str:
    """The header's bytes."""
    _, part = _chosen(random_, draft)
    made = bytearray(part.encode_header()[8:])
    place = random_.randrange(len(made))
    match random_.randrange(6):
        case 0:
            made[place] ^= 1 << random_.randrange(8)
        case 1:
            made[place : place + random_.randrange(64)] = random_.randbytes(random_.randrange(64))
        case 2:
            made = made[:place]
        case 3:
            made = bytearray(random_.choice((b"", b"{}", b"[]", b"null", b"0", b'""', b"\xff")))
        case 4:
            made = bytearray(b"[" * random_.choice((10, 1000, 100_000)))
        case _:
            many = random_.choices((10, 100_000, 3_000_000), (90, 9, 1))[0]
            made = bytearray(b'{"a":' + b"[[]," * many + b"0]}")
    made += b" " * (-(8 + len(made)) % 4096)
    part.text = bytes(made)
    return "text"


def data(random_: random.Random, draft: Draft, canary: str) -> str:
    """The weights: other bits, fewer, more, none. Signed, so it is simply another model."""
    _, part = _chosen(random_, draft)
    place = random_.randrange(len(part.data) + 1)
    match random_.randrange(5):
        case 0 if part.data:
            part.data[place - 1] ^= 1 << random_.randrange(8)
        case 1:
            del part.data[place:]
        case 2:
            part.data += random_.randbytes(random_.choice((1, 255, 4096)))
        case 3:
            part.data[:] = b"\xff" * len(part.data)
        case _:
            part.data.clear()
    return "data"


def exchanged(random_: random.Random, draft: Draft, canary: str) -> str:
    """Another component's file."""
    one, other = random_.choices(list(draft.components), k=2)
    draft.components[one] = draft.components[other]
    return "exchanged"


MUTATIONS: tuple[tuple[int, Callable[[random.Random, Draft, str], str]], ...] = (
    (8, header),
    (8, offsets),
    (8, shapes),
    (6, names),
    (1, twins),
    (5, placing),
    (5, text),
    (4, data),
    (1, exchanged),
)
