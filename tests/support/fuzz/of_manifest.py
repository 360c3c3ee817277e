"""Mutations of the manifest: of any place, and of the places that mean something."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from quickthaw.snapshot.classes import ALLOWED
from quickthaw.snapshot.fields import UNSAFE_CONFIG_KEYS
from support.fuzz.draft import Draft
from support.fuzz.values import INTEGERS, TEXTS, change_somewhere, value

BOMBS: dict[str, tuple[Any, ...]] = {
    # Settings of the libraries whose size decides how much is built, and how long that takes.
    "num_labels": (10**9, 10**5, -1),
    "id2label": ({str(i): "x" for i in range(3000)}, {"x": "y"}),
    "pruned_heads": ({"0": [0]}, {"999": [1, 2]}),
    "num_hidden_layers": (1024, 1025, 0, -1, 10**9),
    "num_layers": (1024, 1025, 0, [1024] * 64),
    "num_single_layers": (1024, 0),
    "layers_per_block": (1024, [1024] * 64, 0, -1),
    "transformer_layers_per_block": (1024, [1024, 1024], [[1024] * 4096] * 2),
    "reverse_transformer_layers_per_block": ([1024] * 2, [[1024] * 64] * 2),
    "down_block_types": (["CrossAttnDownBlock2D"] * 4096, ["DownBlock2D"] * 40, ["X"], []),
    "up_block_types": (["CrossAttnUpBlock2D"] * 4096, ["UpBlock2D"] * 40, ["X"], []),
    "block_out_channels": ([16] * 4096, [16] * 40, [2**40] * 2, [0, 0], [-4, 4]),
    "mid_block_type": ("UNetMidBlock2DCrossAttn", None, "os.system"),
    "num_attention_heads": (10**6, 2**40, 0, -1, [10**6, 1]),
    "attention_head_dim": (10**6, 0, -1, [1, 10**6]),
    "cross_attention_dim": (2**40, 0, [1, 2]),
    "sample_size": (10**9, 0, -1, [1, 10**9]),
    "vocab_size": (2**40, 0, -1, 2**63),
    "max_position_embeddings": (2**40, 0, -1, 2**63),
    "hidden_size": (2**40, 0, -1),
    "d_model": (2**40, 0, -1),
    "relative_attention_num_buckets": (2**40, 0, -1),
    "axes_dims_rope": ([2**40] * 3, [], [0]),
    "in_channels": (2**40, 0, -1),
    "norm_num_groups": (0, 10**9, -1),
    "time_embedding_type": ("fourier", "x"),
    "class_embed_type": ("timestep", "identity", "projection", "simple_projection"),
    "encoder_hid_dim_type": ("text_proj", "text_image_proj", "image_proj"),
    "addition_embed_type": ("text", "text_image", "image", "image_hint", "text_time"),
    "num_class_embeds": (2**40, 10**6),
    "conv_in_kernel": (10**6, 0, -1),
    "dropout": (2.0, -1.0),
    "act_fn": ("os.system", "silu", ""),
    "hidden_act": ("os.system", "gelu", ""),
    "feed_forward_proj": ("gated-os.system", "gated-gelu", "a-b-c"),
    "num_train_timesteps": (10**6, 10**9, 10**12, 0, -1, 2.5),
    "trained_betas": ([0.1] * 4096, [], ["x"], [[0.1]]),
    "beta_schedule": ("squaredcos_cap_v2", "sigmoid", "x"),
    "solver_order": (10**9, 0, -1),
    "timestep_spacing": ("leading", "trailing", "x"),
    "use_karras_sigmas": (True, False),
    "original_inference_steps": (10**9, 0),
    "base_image_seq_len": (10**9, 0),
    "dtype": ("float64", "os.system", "qint8"),
    "torch_dtype": ("float16", "auto"),
    "text_config": ({"num_hidden_layers": 2000}, {"auto_map": {}}, 7),
    "problem_type": ("regression", "x"),
    "is_decoder": (True, False),
    "add_cross_attention": (True, False),
    "tie_word_embeddings": (True, False),
    "_class_name": ("os.system", "UNet2DConditionModel"),
    "return_dict": (False, 7),
    "output_hidden_states": (True, "x"),
    "gradient_checkpointing": (True,),
    "use_quant_conv": (True, False),
    "mid_block_add_attention": (True, False),
    "latent_channels": (2**40, 0, 4096),
    "scaling_factor": (0, 1e308),
}
SCHEMA_BOMBS: tuple[Any, ...] = (
    {"$ref": "#"},
    {"$ref": "file:///etc/passwd"},
    {"$ref": "http://127.0.0.1:9/schema"},
    {"$dynamicRef": "#"},
    {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    {"type": "object", "properties": {"prompt": {"pattern": "(a+)+$"}}},
    {"type": "object", "properties": {"prompt": {"type": "string", "minLength": 2**70}}},
    {"type": "nothing"},
    {"type": "object", "properties": 7},
    {"properties": {"x": {"default": {"a": {}}}}},
    {"$schema": "http://127.0.0.1:9/meta"},
    {"allOf": [{"anyOf": [{}] * 300}] * 300},
    {"enum": []},
    {"required": ["x" * 5000]},
    {},
)


def anywhere(random_: random.Random, draft: Draft, canary: str) -> str:
    """Any place, each section as likely as the next; after signing, so that it lies."""
    document = draft.document
    section = random_.choice([*document, *document["components"], *document["processors"]])
    whole = random_.random() < 0.25
    tree = document[section] if isinstance(section, str) else section
    if whole or isinstance(tree, dict | list):

        def change(made: dict[str, Any]) -> None:
            change_somewhere(random_, made if whole else tree, draft.json, canary)

        draft.late.append(change)
        return "manifest"
    key = section
    draft.late.append(lambda made: made.__setitem__(key, value(random_, draft.json, canary)))
    return "manifest.field"


def config(random_: random.Random, draft: Draft, canary: str) -> str:
    """A setting of a component or scheduler: of known effect, or any."""
    part = random_.choice([*draft.document["components"], *draft.document["schedulers"]])
    settings = part["config"]
    if random_.random() < 0.6:
        known = [key for key in BOMBS if key in settings]
        key = random_.choice(known if known and random_.random() < 0.7 else list(BOMBS))
        settings[key] = random_.choice(BOMBS[key])
        return f"config.{key}"
    if random_.random() < 0.2:
        settings[random_.choice(list(UNSAFE_CONFIG_KEYS))] = value(random_, draft.json, canary)
        return "config.unsafe"
    change_somewhere(random_, settings, draft.json, canary)
    return "config.any"


def classes(random_: random.Random, draft: Draft, canary: str) -> str:
    parts = [
        draft.document["pipeline"],
        *draft.document["components"],
        *draft.document["schedulers"],
        *draft.document["processors"],
    ]
    names = [*ALLOWED, *TEXTS, "diffusers.UNet2DConditionModel.__init__", "torch.hub.load"]
    random_.choice(parts)["class"] = random_.choice(names)
    return "classes"


def claims(random_: random.Random, draft: Draft, canary: str) -> str:
    """What the manifest says of a file: its size, its hashes, another file's."""

    def change(document: dict[str, Any]) -> None:
        part, other = random_.choices(document["components"], k=2)
        key = random_.choice(
            ("digest", "header_digest", "data_start", "data_bytes", "blocks", "aliases", "dtypes")
        )
        old = part[key]
        if random_.random() < 0.4:
            part[key] = other[key]
        elif isinstance(old, int):
            steps = (1, -1, 4096, -4096, 256, 4 << 20, 1 << 42, -old)
            part[key] = random_.choice((old + random_.choice(steps), random_.choice(INTEGERS)))
        elif isinstance(old, str):
            place = random_.randrange(len(old) or 1)
            flipped = old[:place] + random_.choice("0123456789abcdefG") + old[place + 1 :]
            part[key] = random_.choice((flipped, old[:-1], old + old, old.upper(), ""))
        else:
            part[key] = value(random_, draft.json, canary)

    draft.late.append(change)
    return "claims"


def aliases(random_: random.Random, draft: Draft, canary: str) -> str:
    """Ties tensors that are not, unties those that are, in circles and to nowhere."""
    part = random_.choice(draft.document["components"])
    names = [*draft.components[part["name"]].header, "nowhere", "__metadata__", "__pad__0__", ""]
    for _ in range(random_.choice((1, 1, 2, 50))):
        part["aliases"][random_.choice(names)] = random_.choice(names)
    if random_.random() < 0.5 and (alias := random_.choice([*part["aliases"], ""])):
        draft.components[part["name"]].header.pop(alias, None)
    return "aliases"


def parts(random_: random.Random, draft: Draft, canary: str) -> str:
    """Lists of parts: one too many, one too few, two of a name, names of other parts."""
    section = random_.choice(("components", "schedulers", "processors"))
    found = draft.document[section]
    match random_.randrange(5):
        case 0:
            found.append(dict(random_.choice(found)))
        case 1:
            found.append(
                {**random_.choice(found), "name": random_.choice(("extra", "self", "vae"))}
            )
        case 2:
            del found[random_.randrange(len(found))]
        case 3:
            random_.shuffle(found)
        case _:
            names = ("unet", "vae", "scheduler", "self", "args", "kwargs", "safety_checker")
            draft.late.append(lambda _: found[-1].__setitem__("name", random_.choice(names)))
    return "parts"


def version_2(random_: random.Random, draft: Draft, canary: str) -> str:
    """Deltas, adapters and quantization: those there are, or some where there should be none."""
    keys = ("delta", "adapter", "quantization")
    found = [(part, key) for part in draft.document["components"] for key in keys if key in part]
    if not found or random_.random() < 0.1:
        part = random_.choice(draft.document["components"])
        part[random_.choice(keys)] = value(random_, draft.json, canary)
        draft.document["version"] = random_.choice((1, 2, 3))
        return "version_2.new"
    part, key = random_.choice(found)

    def change(_: dict[str, Any]) -> None:
        change_somewhere(random_, part[key], draft.json, canary)

    if random_.random() < 0.5:
        draft.late.append(change)
    else:
        change(draft.document)
    return f"version_2.{key}"


def arguments(random_: random.Random, draft: Draft, canary: str) -> str:
    names = ("requires_safety_checker", "force_zeros_for_empty_prompt", "self", "unet", "x" * 5000)
    draft.document["pipeline"]["arguments"][random_.choice(names)] = value(
        random_, draft.json, canary
    )
    return "arguments"


def schema(random_: random.Random, draft: Draft, canary: str) -> str:
    if random_.random() < 0.5:
        draft.document["input_schema"] = random_.choice(SCHEMA_BOMBS)
    else:
        change_somewhere(random_, draft.document["input_schema"], draft.json, canary)
    return "schema"


def raw_bytes(random_: random.Random, draft: Draft, canary: str) -> str:
    """The manifest's text: cut, spliced, of another encoding, very long."""
    kind = random_.randrange(6)

    def change(content: bytes) -> bytes:
        place = random_.randrange(len(content))
        match kind:
            case 0:
                return content[:place]
            case 1:
                return content + content[place:]
            case 2:
                return content.decode().encode("utf-16")
            case 3:
                return b"\xef\xbb\xbf" + content
            case 4:
                return content[:place] + bytes([random_.randrange(256)]) + content[place + 1 :]
            case _:
                return content[:place] + b" " * random_.choice((10**5, 10**6)) + content[place:]

    draft.encoded = change
    return "manifest.bytes"


MUTATIONS: tuple[tuple[int, Callable[[random.Random, Draft, str], str]], ...] = (
    (18, anywhere),
    (18, config),
    (4, classes),
    (10, claims),
    (3, aliases),
    (3, parts),
    (6, version_2),
    (2, arguments),
    (4, schema),
    (3, raw_bytes),
)
