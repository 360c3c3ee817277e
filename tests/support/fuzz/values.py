"""Values that parsers and constructors trip over."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from quickthaw.snapshot.classes import ALLOWED
from quickthaw.snapshot.fields import UNSAFE_CONFIG_KEYS
from quickthaw.snapshot.format import ITEM_BYTES
from support.fuzz.draft import Json

INTEGERS = (
    *(0, 1, -1, 2, 3, 7, 8, 16, 255, 256, 1000, 1023, 1024, 1025, 4095, 4096, 4097, 65_535),
    *(10**6, 10**7, 10**9, 10**12, 2**31 - 1, 2**31, 2**32, 2**42, 2**42 + 1, 2**53 + 1),
    *(2**62, 2**63 - 1, 2**63, 2**64, 10**30, -(2**31), -(2**63), -(10**30)),
)
TOKENS = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1e-999", "-0", "1" * 4301, "9" * 400)
TEXTS = (
    *("", " ", "\0", "\ud800", "\udfff\ud800", "\N{PILE OF POO}", "\u202e", "\x1b[31m\x1b]0;x\x07"),
    *("[/red]", "[bold]", "%s%n", "{0.__class__}", "../../../../etc/passwd", "/etc/passwd"),
    *("file:///etc/passwd", "http://127.0.0.1:9/x", "a" * 4096, "a" * 4097, "a" * 100_000),
    *("os.system", "builtins.eval", "torch.load", "diffusers.", ".", "null", "true", "0"),
    *("f" * 64, "F" * 64, "0" * 63, "f" * 32, "__class__", "__init__", "__pad__0__", "self"),
    *("float16", "meta", "cuda", "sdpa", "eager", "flash_attention_2", "hub/kernel:x", "auto"),
)


def deep(depth: int) -> Any:
    value: Any = 0
    for level in range(depth):
        value = {"a": value} if level % 2 else [value]
    return value


def value(random_: random.Random, json: Json, canary: str) -> Any:
    """Any JSON value, mostly a nasty one."""
    makers: tuple[Callable[[], Any], ...] = (
        lambda: random_.choice(INTEGERS),
        lambda: random_.randrange(-(1 << random_.randrange(1, 70)), 1 << random_.randrange(1, 70)),
        lambda: json.token(random_.choice(TOKENS)),
        lambda: json.token("[" * random_.choice((100, 2000, 100_000))),
        lambda: json.token(
            "[" + "{}," * random_.choices((50, 5_000, 1_500_000), (700, 298, 2))[0] + "0]"
        ),
        lambda: random_.choice(TEXTS),
        lambda: random_.choice((canary, f"{canary}/secret.json", f"../../{canary}")),
        lambda: random_.choice((None, True, False, [], {}, 0.5, -0.0, 1e308, 1e-320)),
        lambda: random_.choice((sorted(ALLOWED), sorted(ITEM_BYTES), sorted(UNSAFE_CONFIG_KEYS))),
        lambda: random_.choice(sorted(ALLOWED)),
        lambda: deep(random_.choice((2, 15, 16, 17, 40, 400))),
        lambda: [random_.choice(INTEGERS)] * random_.choice((1, 3, 4, 4096, 4097)),
        lambda: [random_.choice(TEXTS)] * random_.choice((1, 2, 300)),
        lambda: {random_.choice(TEXTS): random_.choice(INTEGERS) for _ in range(3)},
        lambda: dict.fromkeys(random_.sample(sorted(UNSAFE_CONFIG_KEYS), 2), True),
    )
    return random_.choice(makers)()


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a tree with each of its keys or indices."""
    stack = [tree]
    while stack:
        node = stack.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in list(items):
            yield node, key
            if isinstance(child, dict | list):
                stack.append(child)


def change_somewhere(random_: random.Random, tree: Any, json: Json, canary: str) -> str:
    """Breaks one place of a JSON tree, in place; returns what was done."""
    found = list(places(tree))
    if not found:
        return "nothing"
    node, key = random_.choice(found)
    old = node[key]
    match random_.randrange(9):
        case 0:
            del node[key]
            return "delete"
        case 1 if isinstance(node, dict):
            node[json.again(key)] = random_.choice((old, value(random_, json, canary)))
            return "duplicate"
        case 2 if isinstance(node, dict):
            name = random_.choice((*TEXTS, *UNSAFE_CONFIG_KEYS, *ALLOWED, key + "_", key.upper()))
            node[name] = node.pop(key)
            return "rename"
        case 3:
            other, other_key = random_.choice(found)
            theirs = other[other_key]
            if not (_holds(old, other) or _holds(theirs, node)):
                node[key], other[other_key] = theirs, old
            return "swap"
        case 4 if isinstance(old, int | float) and not isinstance(old, bool):
            node[key] = random_.choice((old + 1, old - 1, old * 2, -old, old * 1000, old + 0.5))
            return "arithmetic"
        case 5 if isinstance(old, list) and old:
            node[key] = random_.choice((old * 2, old[:-1], old[::-1], old * 1000, [old]))
            return "list"
        case 6 if isinstance(old, str):
            cut = random_.randrange(len(old) + 1)
            node[key] = random_.choice(
                (old[:cut], old + random_.choice(TEXTS), old.upper(), old[:cut] + "\0" + old[cut:])
            )
            return "text"
        case 7 if isinstance(node, dict):
            node[random_.choice((*TEXTS, *UNSAFE_CONFIG_KEYS))] = value(random_, json, canary)
            return "add"
        case _:
            node[key] = value(random_, json, canary)
            return "replace"


def _holds(tree: Any, node: Any) -> bool:
    """Whether `node` is `tree` or somewhere in it: then swapping would make a tree without end."""
    if not isinstance(tree, dict | list):
        return False
    return tree is node or any(holder[key] is node for holder, key in places(tree))
