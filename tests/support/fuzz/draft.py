"""A snapshot in pieces that can be broken one by one, and signed again afterwards.

A mutation that only flips a byte ends at the first hash. So most mutations here are made before
the hashes are computed: the files then match their names and the manifest matches the files, and
what is wrong is met by the code behind those checks.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.format import DATA_ALIGNMENT
from quickthaw.snapshot.hashes import BLOCK_BYTES, block_hash, sha256_hex


class Json:
    """JSON text that a well-behaved encoder would not write: raw tokens and duplicate keys."""

    def __init__(self) -> None:
        self._raw: list[tuple[str, str]] = []

    def token(self, text: str) -> str:
        """A value that is written as `text` itself, such as `1e999` or `NaN`."""
        marker = f"@@raw{len(self._raw)}@@"
        self._raw.append((f'"{marker}"', text))
        return marker

    def again(self, key: str) -> str:
        """A key that is written as `key`, beside another of that name."""
        marker = f"@@again{len(self._raw)}@@"
        self._raw.append((f'"{marker}"', json.dumps(key)))
        return marker

    def encode(self, document: object, **style: Any) -> bytes:
        # Lone surrogates stay escapes, as an attacker would write them.
        text = json.dumps(document, **style)
        for marker, written in self._raw:
            text = text.replace(marker, written)
        return text.encode()


@dataclass(slots=True)
class ComponentDraft:
    """One component file. `header` maps names to their entries; the rest overrides its writing."""

    header: dict[str, Any]
    data: bytearray
    text: bytes | None = None
    """The header's JSON, padding included, instead of `header`."""
    prefix: bytes | None = None
    """The eight bytes of length, instead of the right ones."""
    padding: bytes = b" "
    alignment: int = DATA_ALIGNMENT
    json: Json = field(default_factory=Json)

    def encode_header(self) -> bytes:
        text = self.text
        if text is None:
            text = self.json.encode(self.header, separators=(",", ":"))
            gap = -(8 + len(text)) % self.alignment
            text += (self.padding * gap)[:gap]
        prefix = len(text).to_bytes(8, "little") if self.prefix is None else self.prefix
        return prefix + text


@dataclass(slots=True)
class Draft:
    """A whole snapshot. `late` changes the manifest after signing, `wreck` the files after that."""

    document: dict[str, Any]
    components: dict[str, ComponentDraft]
    """By name; of a component that is stored as a delta, its base."""
    layers: dict[str, list[ComponentDraft]]
    """The deltas over those, by name of the component."""
    blobs: dict[tuple[str, str], bytes]
    """By processor and file name."""
    json: Json = field(default_factory=Json)
    late: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)
    encoded: Callable[[bytes], bytes] = lambda content: content
    """Changes the manifest's bytes."""
    wreck: list[Callable[[Path, Files], None]] = field(default_factory=list)

    def part(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(p for p in self.document["components"] if p["name"] == name)
        return found

    def processor(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(p for p in self.document["processors"] if p["name"] == name)
        return found


@dataclass(slots=True)
class Files:
    """What a draft was written as: paths below the store's root."""

    digest: str
    manifest: str
    components: dict[str, str]
    blobs: dict[tuple[str, str], str]

    @property
    def all(self) -> list[str]:
        return [self.manifest, *self.components.values(), *self.blobs.values()]


class Original:
    """A sound snapshot, read once; `draft` is a fresh copy of it to break."""

    def __init__(self, store: SnapshotStore, digest: str) -> None:
        snapshot = store.open(digest)
        self.digest = digest
        self._document = store.manifest_path(digest).read_bytes()
        self._files: dict[str, list[tuple[bytes, bytes]]] = {}
        for part in snapshot.manifest.components:
            contents = [(store.root / file.path).read_bytes() for file in part.files()]
            self._files[part.name] = [_split(content) for content in contents]
        self._blobs = {
            (processor.name, name): store.blob_path(blob.digest).read_bytes()
            for processor in snapshot.manifest.processors
            for name, blob in processor.files.items()
        }

    def draft(self) -> Draft:
        made = {
            name: [ComponentDraft(json.loads(text), bytearray(data)) for text, data in files]
            for name, files in self._files.items()
        }
        return Draft(
            json.loads(self._document),
            {name: files[0] for name, files in made.items()},
            {name: files[1:] for name, files in made.items() if files[1:]},
            dict(self._blobs),
        )


def _split(content: bytes) -> tuple[bytes, bytes]:
    start = 8 + int.from_bytes(content[:8], "little")
    return content[8:start], content[start:]


def write(draft: Draft, root: Path) -> tuple[Files, dict[str, bytes]]:
    """Signs the draft and writes it as a store of one snapshot.

    Returns also what was signed, by path: the wreckers may have changed it on disk since. Of a
    component that is stored as a delta, that is what base and layers make.
    """
    document = copy.copy(draft.document)
    contents: dict[str, bytes] = {}
    made: dict[str, bytes] = {}
    components: dict[str, str] = {}
    for part in document["components"]:
        name = part["name"]
        if (base := draft.components.get(name)) is None:
            continue
        signed = _signed(base.encode_header(), bytes(base.data))
        path = f"components/{signed['digest']}.safetensors"
        components[name] = path
        contents[path] = bytes(base.encode_header() + base.data)
        if isinstance(part.get("delta"), dict):
            signed = _sign_layers(part["delta"], base, draft.layers[name], components, contents)
            made[f"components/{signed['digest']}.safetensors"] = signed.pop("content")
        part |= signed
    blobs: dict[tuple[str, str], str] = {}
    for processor in document["processors"]:
        for name in processor["files"]:
            if (content := draft.blobs.get((processor["name"], name))) is not None:
                digest = sha256_hex(content)
                processor["files"][name] = {"digest": digest, "bytes": len(content)}
                blobs[processor["name"], name] = f"blobs/{digest}"
                contents[f"blobs/{digest}"] = content
    for change in draft.late:
        change(document)
    manifest = draft.encoded(draft.json.encode(document, indent=1, sort_keys=True))
    files = Files(sha256_hex(manifest), "", components, blobs)
    files.manifest = f"snapshots/{files.digest}/manifest.json"
    contents[files.manifest] = manifest
    for folder in ("components", "deltas", "blobs", f"snapshots/{files.digest}"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        (root / path).write_bytes(content)
    for change_files in draft.wreck:
        change_files(root, files)
    return files, contents | made


def _signed(header: bytes, data: bytes) -> dict[str, Any]:
    """What a manifest says of a file."""
    return {
        "digest": sha256_hex(header + data),
        "header_digest": sha256_hex(header),
        "data_start": len(header),
        "data_bytes": len(data),
        "blocks": "".join(
            block_hash(data[start : start + BLOCK_BYTES])
            for start in range(0, len(data), BLOCK_BYTES)
        ),
    }


def _sign_layers(
    delta: dict[str, Any],
    base: ComponentDraft,
    layers: list[ComponentDraft],
    components: dict[str, str],
    contents: dict[str, bytes],
) -> dict[str, Any]:
    """Signs the layers, and what they make of the base; its bytes are under `content`."""
    header, data = base.encode_header(), bytearray(base.data)
    delta["base"] = sha256_hex(header + base.data)
    for index, (layer, said) in enumerate(zip(layers, delta["layers"], strict=False)):
        for name, entry in layer.header.items():
            # A broken layer is signed for what can be made of it.
            if isinstance(place := base.header.get(name), dict) and "data_offsets" in entry:
                (start, end), (to, _) = entry["data_offsets"], place["data_offsets"]
                data[to : to + end - start] = layer.data[start:end]
        own = _signed(layer.encode_header(), bytes(layer.data))
        del own["blocks"]
        said |= own
        said["result"] = sha256_hex(header + data)
        path = f"deltas/{own['digest']}.safetensors"
        components[f"{delta['base']} {index}"] = path
        contents[path] = layer.encode_header() + bytes(layer.data)
    return {**_signed(header, bytes(data)), "content": header + bytes(data)}
