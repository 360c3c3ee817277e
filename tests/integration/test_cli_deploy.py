"""What `quickthaw deploy` refuses, and what it leaves as it was when something goes wrong."""

from __future__ import annotations

import json
import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from quickthaw.cli.snapshots import collect_unused, model_of
from quickthaw.client import UnusedSnapshot
from quickthaw.client.convert_operators import model_to_wire
from quickthaw.snapshot import Snapshot, SnapshotStore
from quickthaw.snapshot.pack import pack
from quickthaw.v1 import catalog_pb2, inference_pb2, types_pb2
from quickthaw.wire import errors
from support import answers
from support.command_line import Quickthaw
from support.fake_platform import FakePlatform
from support.loras import lora
from support.tiny_models import tiny_flux, tiny_sd

BASE = "quickthaw/tiny"
NAME = "me/style"


class Deployments:
    """The platform of the tests: a catalog that remembers, and a store beside it."""

    def __init__(self, platform: FakePlatform, data_dir: Path, base: Snapshot) -> None:
        self.store = base.store
        self.models = {BASE: model_to_wire(model_of(base, BASE))}
        self.endpoints: dict[str, catalog_pb2.Endpoint] = {}
        self.platform = platform
        facts = {"http": "http://127.0.0.1:1", "metrics": "", "key_file": "", "pid": 1}
        (data_dir / "run.json").write_text(json.dumps({"grpc": platform.address, **facts}))
        platform.scripts |= {
            "GetModel": self.get,
            "Register": self.register,
            "Remove": self.remove,
            "GetEndpoint": lambda message: self.endpoints.get(
                message.model, catalog_pb2.Endpoint(model=message.model)
            ),
            "ListVersions": lambda message: catalog_pb2.ListVersionsResponse(
                versions=[
                    catalog_pb2.ModelVersion(
                        number=1, model=self.models[message.model], current=True
                    )
                ]
            ),
        }

    def get(self, message: catalog_pb2.GetModelRequest) -> catalog_pb2.Model:
        if message.id not in self.models:
            raise errors.ModelNotFound(f"no model {message.id!r}")
        return self.models[message.id]

    def register(self, message: catalog_pb2.RegisterRequest) -> catalog_pb2.RegisterResponse:
        self.models[message.model.id] = message.model
        if message.HasField("endpoint"):
            self.endpoints[message.model.id] = message.endpoint
        return catalog_pb2.RegisterResponse(model=message.model, changed=True)

    def remove(self, message: catalog_pb2.RemoveRequest) -> catalog_pb2.RemoveResponse:
        del self.models[message.id]
        return catalog_pb2.RemoveResponse()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a LoRA of it, a file with its UNet alone, and a folder of another family."""
    folder = tmp_path_factory.mktemp("sources")
    base = tiny_sd(0)
    base.save_pretrained(folder / "sd")
    tiny_flux(0).save_pretrained(folder / "flux")
    lora(folder / "style.safetensors", base)
    state = {name: each + 0.01 for name, each in tiny_sd(1).unet.state_dict().items()}
    save_file(state, folder / "unet.safetensors")
    pack(base, folder / "packed")
    return folder


@pytest.fixture
def deployments(platform: FakePlatform, sources: Path, tmp_path: Path) -> Deployments:
    store = SnapshotStore(tmp_path / "data" / "snapshots")
    (digest,) = store.import_(sources / "packed")
    return Deployments(platform, tmp_path / "data", store.open(digest))


def refused(quickthaw: Quickthaw, *words: object) -> str:
    answer = quickthaw("deploy", *map(str, words), "--name", NAME)
    assert answer.status != 0
    return answer.err


@pytest.mark.parametrize(
    ("source", "flags", "components"),
    [
        ("style.safetensors", ("--base", BASE), 4),
        ("unet.safetensors", ("--base", BASE), 3),
        ("sd", (), 3),
        ("flux", ("--family", "flux"), 4),
    ],
)
def test_whatever_is_deployed_is_private_from_its_first_moment(
    deployments: Deployments,
    quickthaw: Quickthaw,
    sources: Path,
    source: str,
    flags: tuple[str, ...],
    components: int,
) -> None:
    words = ("deploy", str(sources / source), "--name", NAME, "--no-self-test", "--json", *flags)
    told = quickthaw(*words)
    assert told.status == 0, told.err
    model = told.json["model"]
    assert len(model["components"]) == components
    assert model["snapshot_digest"] in deployments.store
    assert model["snapshot_uri"] == str(deployments.store.root)
    (registered,) = deployments.platform.calls("Register")
    assert registered.endpoint.visibility == catalog_pb2.VISIBILITY_PRIVATE


def test_a_new_version_keeps_its_endpoint_and_names_unless_told(
    deployments: Deployments, quickthaw: Quickthaw, sources: Path
) -> None:
    earlier = catalog_pb2.Model()
    earlier.CopyFrom(deployments.models[BASE])
    earlier.id, earlier.aliases[:] = NAME, ["style"]
    deployments.models[NAME] = earlier
    deployments.endpoints[NAME] = catalog_pb2.Endpoint(
        model=NAME, visibility=catalog_pb2.VISIBILITY_PRIVATE, owner_tenant="me", min_replicas=2
    )
    words = ("deploy", str(sources / "unet.safetensors"), "--base", BASE, "--name", NAME)
    assert quickthaw(*words, "--no-self-test").status == 0
    assert quickthaw(*words, "--no-self-test", "--shared").status == 0
    kept, shared = deployments.platform.calls("Register")
    assert not kept.HasField("endpoint")
    assert list(kept.model.aliases) == ["style"]
    assert shared.endpoint.visibility == catalog_pb2.VISIBILITY_SHARED
    assert (shared.endpoint.owner_tenant, shared.endpoint.min_replicas) == ("me", 2)


def test_a_model_that_is_added_again_keeps_its_short_names_unless_told(
    deployments: Deployments, quickthaw: Quickthaw
) -> None:
    words = ("models", "add", str(deployments.store.root), "--id", NAME)
    for options, expected in (
        ((), []),
        (("--alias", "mine"), ["mine"]),
        ((), ["mine"]),
        (("--alias", "other"), ["other"]),
    ):
        told = quickthaw(*words, *options)
        assert told.status == 0, told.err
        assert list(deployments.models[NAME].aliases) == expected


def mangled(sources: Path, folder: Path, how: str) -> Path:
    """A file that is not what it says."""
    whole = (sources / "style.safetensors").read_bytes()
    path = folder / "odd.safetensors"
    match how:
        case "a pickle":
            path.write_bytes(pickle.dumps({"weights": [1.0]}))
        case "a zip of pickles":
            path.write_bytes(b"PK\x03\x04" + bytes(100))
        case "cut short":
            path.write_bytes(whole[:-64])
        case "an endless header":
            path.write_bytes((1 << 60).to_bytes(8, "little") + whole[8:])
        case "tensors that overlap":
            length = int.from_bytes(whole[:8], "little")
            header: dict[str, Any] = json.loads(whole[8 : 8 + length])
            for entry in header.values():
                if "data_offsets" in entry:
                    entry["data_offsets"] = [0, entry["data_offsets"][1] - entry["data_offsets"][0]]
            text = json.dumps(header).encode()
            path.write_bytes(len(text).to_bytes(8, "little") + text + whole[8 + length :])
    return path


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("a pickle", "pickle"),
        ("a zip of pickles", "pickle"),
        ("cut short", "odd.safetensors"),
        ("an endless header", "header"),
        ("tensors that overlap", "odd.safetensors"),
    ],
)
def test_a_file_that_lies_is_refused_by_name_and_nothing_is_registered(
    deployments: Deployments,
    quickthaw: Quickthaw,
    sources: Path,
    tmp_path: Path,
    how: str,
    said: str,
) -> None:
    told = refused(quickthaw, mangled(sources, tmp_path, how), "--base", BASE)
    assert "odd.safetensors" in told
    assert said in told
    assert not deployments.platform.calls("Register")


def test_a_pickle_is_refused_by_its_name_alone(
    deployments: Deployments, quickthaw: Quickthaw, tmp_path: Path
) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"anything")
    assert "model.ckpt: this is a pickle" in refused(quickthaw, path, "--base", BASE)
    assert not deployments.platform.calls("Register")


def test_weights_that_do_not_fit_their_base_are_refused_with_what_differs(
    deployments: Deployments, quickthaw: Quickthaw, sources: Path, tmp_path: Path
) -> None:
    state = load_file(sources / "unet.safetensors")
    gone = sorted(state)[0]
    save_file({n: each for n, each in state.items() if n != gone}, tmp_path / "u.safetensors")
    flags = ("--base", BASE, "--component", "unet")
    assert gone in refused(quickthaw, tmp_path / "u.safetensors", *flags)
    assert not deployments.platform.calls("Register")


@pytest.mark.parametrize(
    ("source", "flags", "said"),
    [
        ("style.safetensors", (), "--base MODEL"),
        ("unet.safetensors", (), "--base MODEL"),
        ("style.safetensors", ("--base", "nobody/knows"), "nobody/knows"),
        ("style.safetensors", ("--base", BASE, "--family", "flux"), "is of family sd, not flux"),
        ("flux", ("--base", BASE), "is of family flux, but --base"),
        ("sd", ("--family", "flux"), "is of family sd, not flux"),
        ("gone.safetensors", ("--base", BASE), "no such file"),
        ("sd", ("--default", "colour=red"), "colour"),
    ],
)
def test_a_wrong_base_family_or_path_is_named_with_what_to_do(
    deployments: Deployments,
    quickthaw: Quickthaw,
    sources: Path,
    source: str,
    flags: tuple[str, ...],
    said: str,
) -> None:
    assert said in refused(quickthaw, sources / source, *flags)
    assert not deployments.platform.calls("Register")


def test_a_name_that_cannot_be_is_refused_before_anything_is_read(
    deployments: Deployments, quickthaw: Quickthaw, sources: Path
) -> None:
    told = quickthaw("deploy", str(sources / "sd"), "--name", "Style")
    assert told.status == 2
    assert "owner/name" in told.err
    assert not deployments.platform.received


def test_a_version_whose_self_test_fails_never_gets_the_name(
    deployments: Deployments, quickthaw: Quickthaw, sources: Path
) -> None:
    async def fails(message: inference_pb2.WatchRequest) -> AsyncIterator[inference_pb2.Event]:
        failure = types_pb2.Failure(reason="ENGINE_FAILED", message="it fell over")
        request = types_pb2.Request(
            request_id=answers.REQUEST_ID, state=types_pb2.REQUEST_STATE_FAILED, failure=failure
        )
        yield inference_pb2.Event(request_id=answers.REQUEST_ID, sequence=1, finished=request)

    deployments.platform.scripts["Watch"] = fails
    told = refused(quickthaw, sources / "unet.safetensors", "--base", BASE)
    assert "it fell over" in told
    assert f"{NAME} is as it was" in told
    (staged,) = deployments.platform.calls("Register")
    assert staged.model.id.startswith("self-test/")
    assert staged.endpoint.visibility == catalog_pb2.VISIBILITY_PRIVATE
    assert set(deployments.models) == {BASE}, "what was staged is gone too"


def test_a_picture_of_one_colour_is_no_picture(
    deployments: Deployments, quickthaw: Quickthaw, sources: Path
) -> None:
    # The platform of the tests draws one red pixel.
    told = refused(quickthaw, sources / "unet.safetensors", "--base", BASE)
    assert "one colour only" in told
    assert "--no-self-test" in told
    assert set(deployments.models) == {BASE}


def test_unused_snapshots_go_and_what_others_share_stays(
    deployments: Deployments, quickthaw: Quickthaw, sources: Path, tmp_path: Path
) -> None:
    flags = ("--base", BASE, "--name", NAME, "--no-self-test", "--json")
    told = quickthaw("deploy", str(sources / "style.safetensors"), *flags)
    store, style = SnapshotStore(deployments.store.root), told.json["model"]["snapshot_digest"]
    base = deployments.models[BASE].snapshot_digest
    (another := tmp_path / "another-store").mkdir()
    unused = [
        UnusedSnapshot(style, str(store.root)),
        UnusedSnapshot("ab" * 32, "s3://models/quickthaw"),
        UnusedSnapshot(base, str(another)),
    ]
    before = collect_unused(store, unused, dry_run=True)
    assert style in store
    done = collect_unused(store, unused)
    assert (done.snapshots, done.freed_bytes) == ((style,), before.freed_bytes)
    assert before.snapshots == done.snapshots
    assert done.freed_bytes > 0
    assert [each.uri for each in done.elsewhere] == [each.uri for each in unused[1:]]
    assert list(store) == [base]
    assert all(store.holds(part) for part in store.open(base).manifest.components)


def test_what_a_store_held_before_it_was_moved_goes_as_well(
    deployments: Deployments, quickthaw: Quickthaw, sources: Path, tmp_path: Path
) -> None:
    flags = ("--base", BASE, "--name", NAME, "--no-self-test", "--json")
    told = quickthaw("deploy", str(sources / "style.safetensors"), *flags)
    style = told.json["model"]["snapshot_digest"]
    store = SnapshotStore(deployments.store.root)
    unused = [UnusedSnapshot(style, str(tmp_path / "before")), UnusedSnapshot("ab" * 32, "/gone")]
    done = collect_unused(store, unused)
    assert (done.snapshots, done.elsewhere) == ((style,), (unused[1],))
    assert style not in store


def test_deploying_to_a_bucket_leaves_nothing_here_but_serves_from_there(
    deployments: Deployments, quickthaw: Quickthaw, sources: Path, tmp_path: Path
) -> None:
    (tmp_path / "data" / "run.json").unlink()  # the platform is another machine's
    place = f"file://{tmp_path / 'bucket'}"
    words = ("deploy", str(sources / "sd"), "--name", NAME, "--no-self-test", "--json")
    told = quickthaw(*words)
    assert told.status == 2
    assert "--to" in told.json["error"]["hint"]
    told = quickthaw(*words, "--to", place)
    assert told.status == 0, told.err
    assert told.json["model"]["snapshot_uri"] == place
    assert told.json["model"]["snapshot_digest"] in SnapshotStore(tmp_path / "bucket")
