"""Custom models by plain HTTP on a whole platform: brought, packed, tried, served, taken back."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from safetensors.torch import load_file, save_file

from quickthaw.cli.packer import landlock
from quickthaw.client import Scope
from quickthaw.snapshot import SnapshotStore
from quickthaw.snapshot.skeleton import build
from support.loras import lora
from support.platform import Platform, quickthaw, running_platform, until
from support.tenants import Tenant, a_tenant
from support.tiny_models import tiny_flux, tiny_sd

pytestmark = pytest.mark.timeout(300)  # each deployment imports torch in a process of its own

INPUT = {"prompt": "a red circle above a blue square", "seed": 7}
FAST = {"num_inference_steps": 2}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    # Where the system has walls for what tenants bring, nothing is packed without.
    walls = ("--set", "packer.require-walls") if landlock.version() >= landlock.ABI_MIN else ()
    with running_platform(tmp_path_factory.mktemp("platform"), *walls) as running:
        yield running


@pytest.fixture(scope="module")
def me(platform: Platform) -> Iterator[Tenant]:
    tenant = a_tenant(platform, "me")
    yield tenant
    tenant.http.close()


@pytest.fixture(scope="module")
def sources(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of the bundled model, its UNet alone, a folder of tiny weights."""
    with platform.client() as client:
        digest = client.models.get("shapes").snapshot_digest
    component = SnapshotStore(platform.data_dir / "snapshots").open(digest).manifest.component
    unet = SimpleNamespace(unet=build(component("unet")))
    folder = tmp_path_factory.mktemp("sources")
    lora(folder / "style.safetensors", unet, rank=4, seed=1)
    lora(folder / "other.safetensors", unet, rank=4, seed=2)
    base = tiny_sd(0)
    base.save_pretrained(folder / "tiny")
    state = {name: each + 0.01 for name, each in base.unet.state_dict().items()}
    save_file(state, folder / "unet.safetensors")
    tiny_flux(0).save_pretrained(folder / "flux")
    return folder


@pytest.fixture(scope="module")
def style(me: Tenant, sources: Path) -> dict[str, Any]:
    """The first version of `me/style`, deployed."""
    file = me.upload(sources / "style.safetensors")
    return me.ended(me.deploy("me/style", [file], base="shapes", defaults=FAST))


def test_a_lora_is_tried_as_its_tenant_and_served_as_what_the_command_deploys(
    platform: Platform, me: Tenant, sources: Path, style: dict[str, Any], tmp_path: Path
) -> None:
    assert (style["state"], style["version"], style["attempts"]) == ("ready", 1, 1), style
    assert style["input_schema"]["properties"]["num_inference_steps"]["default"] == 2
    tried = style["self_test"]
    assert tried["receipt"]["model"] == f"self-test/{style['id']}"
    assert tried["receipt"]["price_nanodollars"] > 0, "the tenant pays for its picture"
    picture = httpx.get(tried["pictures"][0]).content
    assert drawn(me, "me/style") == picture
    assert drawn(me, "quickthaw/shapes", **FAST) != picture
    words = ("deploy", sources / "style.safetensors", "--name", "default/style")
    flags = ("--base", "shapes", "--default", "num_inference_steps=2", "--no-self-test", "--json")
    done = subprocess.run(
        quickthaw(*words, *flags),
        env=platform.environment(),
        capture_output=True,
        check=True,
        cwd=tmp_path,
    )
    assert json.loads(done.stdout)["model"]["snapshot_digest"] == style["snapshot"]


def test_the_next_version_is_rolled_back_and_all_of_it_deleted(
    platform: Platform, me: Tenant, sources: Path, style: dict[str, Any]
) -> None:
    others_see_nothing(platform, me, style["id"])
    picture = drawn(me, "me/style")
    file = me.upload(sources / "other.safetensors")
    assert me.ended(me.deploy("me/style", [file], base="shapes"))["version"] == 2
    assert drawn(me, "me/style", **FAST) != picture
    back = me.http.post("/v1/endpoints/me/style/rollback", json={"version": 1})
    assert (back.status_code, back.json()["changed"]) == (200, True)
    listed = me.http.get("/v1/endpoints/me/style/versions").json()["versions"]
    assert [(each["version"], each["current"]) for each in listed] == [(2, False), (1, True)]
    seen_by_replicate(platform, me)
    assert drawn(me, "me/style") == picture
    assert me.http.delete("/v1/endpoints/me/style").status_code == 204
    assert me.http.get("/v1/endpoints/me/style/versions").status_code == 404
    with platform.client() as client:
        assert not [each.id for each in client.models.list() if "self-test" in each.id]
        made = [each for each in client.keys.list("me") if "self-test" in each.label]
        assert all(each.revoked_unix_ms for each in made)


def drawn(me: Tenant, name: str, **more: object) -> bytes:
    answer = me.http.post(f"/run/{name}", json={**INPUT, **more})
    assert answer.status_code == 200, answer.text
    return me.http.get(answer.json()["images"][0]["url"]).content


def seen_by_replicate(platform: Platform, me: Tenant) -> None:
    """Both versions, the first of which serves."""
    model = "/replicate/v1/models/me/style"
    first, second = [each["id"] for each in me.http.get(f"{model}/versions").json()["results"]]
    assert first != second
    # A gateway remembers for a moment what a model is.
    me.until(model, lambda now: now["latest_version"]["id"] == second, "the rollback")
    old = me.http.get(f"{model}/versions/{first}").json()
    assert "lora_scale" in old["openapi_schema"]["components"]["schemas"]["Input"]["properties"]
    assert me.http.get(f"{model}/versions/{'0' * 64}").status_code == 404
    listed = me.http.get("/replicate/v1/models").json()["results"]
    assert ("me", "style") in [(each["owner"], each["name"]) for each in listed]
    body = {"version": first, "input": INPUT}
    assert me.http.post("/replicate/v1/predictions", json=body).status_code == 422
    with a_tenant(platform, "rival").http as rival:
        assert rival.get(f"{model}/versions").status_code == 404


def others_see_nothing(platform: Platform, me: Tenant, deployment: str) -> None:
    """A rival's every answer is as for what never was; without the scope, all is refused."""
    with (
        a_tenant(platform, "rival").http as rival,
        a_tenant(platform, "me", Scope.CALL).http as caller,
    ):
        a_stranger_sees_nothing(rival, me.http, deployment)
        assert caller.get(f"/v1/deployments/{deployment}").status_code == 403
        assert caller.delete("/v1/endpoints/me/style").status_code == 403


def a_stranger_sees_nothing(rival: httpx.Client, me: httpx.Client, deployment: str) -> None:
    known = (f"/v1/deployments/{deployment}", "/v1/endpoints/me/style")
    unknown = ("/v1/deployments/dep_0000000000", "/v1/endpoints/me/never")
    calls = (
        *(("GET", ""), ("POST", "/cancel"), ("GET", "/versions")),
        *(("POST", "/rollback"), ("DELETE", "")),
    )
    for there, nowhere in zip(known, unknown, strict=True):
        for method, rest in calls:
            body = {"version": 1} if rest == "/rollback" else None
            seen, never = (
                rival.request(method, path + rest, json=body) for path in (there, nowhere)
            )
            assert seen.status_code == never.status_code in (404, 405), (method, rest)
            generic = [
                answer.text.replace(path.rpartition("/")[2], "").replace("me/", "")
                for answer, path in ((seen, there), (never, nowhere))
            ]
            assert generic[0] == generic[1]
    assert rival.get("/v1/deployments").json()["deployments"] == []
    stolen = me.get(known[0]).json()["files"][0]["id"]
    file = {"id": stolen, "path": "a.safetensors"}
    wish = {"name": "rival/style", "base": "shapes", "files": [file]}
    assert "is no upload of yours" in rival.post("/v1/deployments", json=wish).text
    assert me.get("/v1/deployments").json()["deployments"]


def test_a_folder_is_deployed_and_a_single_file_over_it(me: Tenant, sources: Path) -> None:
    folder = me.ended(me.deploy("me/tiny", me.upload_folder(sources / "tiny"), family="sd"))
    assert folder["state"] == "ready", folder
    file = me.upload(sources / "unet.safetensors")
    over = me.ended(me.deploy("me/tuned", [file], base="me/tiny", title="A tuned one"))
    assert over["state"] == "ready", over
    assert drawn(me, "me/tuned") != drawn(me, "me/tiny")
    assert drawn(me, "me/tuned") == httpx.get(over["self_test"]["pictures"][0]).content


def test_the_command_deploys_from_another_machine_with_nothing_but_a_key(
    platform: Platform, me: Tenant, sources: Path, style: dict[str, Any], tmp_path: Path
) -> None:
    key = me.http.headers["authorization"].removeprefix("Key ")
    words = ("deploy", sources / "style.safetensors", "--name", "me/sent", "--base", "shapes")
    flags = ("--default", "num_inference_steps=2", "--remote", platform.ready["http"], "--json")
    elsewhere = {"QUICKTHAW_KEY": key, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        quickthaw(*words, *flags),
        env={**os.environ, **elsewhere},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["deployment"]["snapshot"] == style["snapshot"]
    (saved,) = answer["files"]
    assert (tmp_path / saved).read_bytes() == drawn(me, "me/sent")


@pytest.mark.parametrize(
    ("made", "reason", "said"),
    [
        ("tensors of nothing", "", "style.safetensors"),
        ("another family", "invalid_argument", "is of family flux, but"),
    ],
)
def test_what_cannot_be_packed_fails_by_name_and_changes_nothing(
    platform: Platform,
    me: Tenant,
    sources: Path,
    tmp_path: Path,
    made: str,
    reason: str,
    said: str,
) -> None:
    if made == "another family":
        files = me.upload_folder(sources / "flux")
    else:
        plain = tmp_path / "plain.dat"  # nothing that a gateway looks at
        state = load_file(sources / "unet.safetensors")
        save_file({f"odd.{name}": each for name, each in state.items()}, plain)
        files = [{"url": me.upload(plain), "path": "style.safetensors"}]
    ended = me.ended(me.deploy("me/refused", files, base="shapes"))
    assert ended["state"] == "failed"
    assert said in ended["error"]["message"]
    assert reason in ended["error"]["type"]
    assert str(platform.data_dir) not in json.dumps(ended)
    assert me.http.get("/v1/endpoints/me/refused/versions").status_code == 404


def said_by_packers(platform: Platform) -> str:
    return (platform.data_dir / "logs" / "packer.log").read_text()


def test_a_packer_that_is_killed_halfway_is_replaced_and_nothing_is_fetched_twice(
    platform: Platform, me: Tenant, sources: Path
) -> None:
    url = me.deploy("me/killed", [me.upload(sources / "style.safetensors")], base="shapes")
    me.until(url, lambda now: "looking" in now["step"], "packing")
    platform.kill("packer")
    assert me.http.get("/v1/endpoints/me/killed/versions").status_code == 404
    ended = me.ended(url)
    assert (ended["state"], ended["attempts"], ended["version"]) == ("ready", 2, 1), ended
    assert "style.safetensors is here from an earlier try" in said_by_packers(platform)


def test_what_was_packed_is_not_packed_again_when_the_packer_dies_at_the_self_test(
    platform: Platform, me: Tenant, sources: Path
) -> None:
    file = me.upload(sources / "style.safetensors")
    slow = {"num_inference_steps": 60}
    url = me.deploy("me/tried", [file], base="shapes", test=slow)
    me.until(url, lambda now: now["state"] == "testing", "the self-test")
    platform.kill("packer")
    ended = me.ended(url)
    assert (ended["state"], ended["attempts"], ended["version"]) == ("ready", 2, 1), ended
    assert f"{ended['id']} was packed before" in said_by_packers(platform)


def test_a_scheduler_that_is_killed_meanwhile_costs_no_try(
    platform: Platform, me: Tenant, sources: Path
) -> None:
    url = me.deploy("me/steady", [me.upload(sources / "style.safetensors")], base="shapes")
    me.until(url, lambda now: "packing" in now["step"] or "looking" in now["step"], "packing")
    os.kill(platform.pids()["scheduler"], signal.SIGKILL)
    ended = me.ended(url)
    assert (ended["state"], ended["attempts"]) == ("ready", 1), ended


def test_one_that_is_cancelled_ends_its_packing_and_the_next_begins(
    platform: Platform, me: Tenant, sources: Path
) -> None:
    file = me.upload(sources / "style.safetensors")
    first = me.deploy("me/never", [file], base="shapes")
    me.until(first, lambda now: now["state"] == "packing", "packing")
    second = me.deploy("me/next", [file], base="shapes")
    assert me.http.post(f"{first}/cancel").json()["state"] == "cancelled"
    assert me.ended(second)["state"] == "ready"
    assert me.ended(first)["state"] == "cancelled"
    assert me.http.get("/v1/endpoints/me/never/versions").status_code == 404
    work = platform.data_dir / "packer"
    asyncio.run(
        until(lambda: not [each for each in work.iterdir() if each.is_dir()], "a clean work folder")
    )
