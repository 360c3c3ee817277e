"""`quickthaw deploy ...`: a LoRA, a checkpoint or a diffusers folder as an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from quickthaw.cli.session import Session, session_command

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.cli.deploying import Wanted
    from quickthaw.client import JsonValue, ModelVersion, Visibility

CREATE = "create"
TIMEOUT_SECONDS = 900.0


class _PathOrCommand(TyperGroup):
    """`deploy PATH ...` is `deploy create PATH ...`; nobody has to know the longer form."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # Typer's public class for its vendored one
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [CREATE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_PathOrCommand,
    no_args_is_help=True,
    help="Deploy a LoRA, a checkpoint or a diffusers folder: `deploy PATH --name OWNER/MODEL`. "
    "Then versions, rollback, delete, gc.\n\n"
    "`quickthaw deploy create --help` lists the options of `deploy PATH`.",
)
DAY_SECONDS = 86_400
ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Catalog id or alias.")]


@session_command(app, CREATE)
def create(
    session: Session,
    source: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="A LoRA or a checkpoint (.safetensors), a diffusers folder, or "
            "hf:OWNER/REPO[@REVISION].",
        ),
    ],
    name: Annotated[
        str, typer.Option("--name", metavar="OWNER/MODEL", help="What it is called by.")
    ],
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that a LoRA or a single file is for; of a folder, only what differs "
            "is stored.",
            show_default=False,
        ),
    ] = None,
    family: Annotated[
        str | None, typer.Option(help="Refuse anything else: sd, sdxl, flux, ...")
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What an input is where a request does not give it; may be repeated.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Only its owner's keys may call it; so it is if it is new, else as before.",
        ),
    ] = False,
    shared: Annotated[bool, typer.Option("--shared", help="Every tenant may call it.")] = False,
    owner: Annotated[
        str,
        typer.Option(metavar="TENANT", help="Whose it is. Default: yours.", show_default=False),
    ] = "",
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Serve it from s3://BUCKET/PREFIX, gs://, az:// or a folder that every worker "
            "reaches. Default: the platform's own store on this machine.",
            show_default=False,
        ),
    ] = None,
    remote: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Of a gateway: the files are sent there, and the platform packs them. A key with "
            "the scopes call and deploy is read from $QUICKTHAW_KEY. Repeated, it sends only what "
            "has not arrived.",
            show_default=False,
        ),
    ] = None,
    component: Annotated[
        str | None, typer.Option(help="Which component a single file holds.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Convert the weights: float16, bfloat16 or float32.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="Store weights in eight bits: fp8 or int8.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="How strongly a LoRA acts. Default: 1.", show_default=False)
    ] = None,
    title: Annotated[str, typer.Option(help="One line about it.", show_default=False)] = "",
    licence: Annotated[
        str, typer.Option("--license", "--licence", help="Of the weights.", show_default=False)
    ] = "",
    no_self_test: Annotated[
        bool,
        typer.Option(
            "--no-self-test",
            help="Serve it untried. Else it draws first, and nothing changes if that fails.",
        ),
    ] = False,
    test: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An input of the self-test; may be repeated.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", help="For the self-test, from 1 to 86400 (a day).")
    ] = TIMEOUT_SECONDS,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where its picture is saved.")
    ] = Path("quickthaw-output"),
) -> None:
    """Pack it, try it, and serve it under its name. Needs an admin key, or --remote.

    Only safetensors are read: pickles (.ckpt, .bin, .pt) are refused. Deploying to a name that
    exists makes its next version.

    ```
    quickthaw deploy style.safetensors --name me/style --base shapes --default num_inference_steps=4
    quickthaw deploy ./my-sdxl --name me/sdxl --base stable-diffusion-xl --shared
    quickthaw deploy tune.safetensors --name me/tune --base sdxl --to s3://models/quickthaw
    quickthaw deploy tune.safetensors --name me/tune --base sdxl --remote https://gpu.example.com
    ```
    """
    from quickthaw.cli import deploying
    from quickthaw.cli.errors import UsageFault
    from quickthaw.cli.making import Recipe
    from quickthaw.cli.running import check_folder
    from quickthaw.cli.self_test import draw, test_input
    from quickthaw.client import Visibility

    wanted = deploying.Wanted(
        source=source,
        name=deploying.check_name(name),
        recipe=Recipe(
            base=base,
            family=family,
            component=component,
            dtype=dtype,
            quantize=quantize,
            scale=scale,
            title=title,
            licence=licence,
        ),
        defaults=tuple(default or ()),
        to=to,
    )
    if not 1 <= timeout <= DAY_SECONDS:
        raise UsageFault(f"--timeout {timeout:g}: give seconds, from 1 to {DAY_SECONDS}")
    if private and shared:
        raise UsageFault("--private and --shared: choose one")
    visibility = Visibility.PRIVATE if private else Visibility.SHARED if shared else None
    if remote is not None:
        for flag, given in (("--owner", owner), ("--to", to), ("--no-self-test", no_self_test)):
            if given:
                raise UsageFault(
                    f"{flag} is for the platform's operators",
                    "with --remote the model is your tenant's, and tried where it is packed",
                )
        check_folder(output)
        _deploy_remotely(session, remote, wanted, tuple(test or ()), visibility, output)
        return
    files: list[Path] = []
    with session.client() as client:
        before = deploying.known(client, name)
        if not no_self_test:
            check_folder(output)
        with deploying.working_store(session, client, to) as store:
            snapshot = deploying.packed(client, wanted, store)
            model = deploying.placed(wanted, snapshot, before)
        if not no_self_test:
            values = test_input(model, tuple(test or ()))
            _, files = draw(client, model, values, output, timeout, quiet=session.out.as_json)
        endpoint = deploying.endpoint_for(client, before, visibility, owner)
        registered = client.models.register(model, endpoint)
        version = next(each for each in client.models.versions(name) if each.current)
        served = client.endpoints.get(name)
    answer = {
        "model": registered.model,
        "version": version.number,
        "changed": registered.changed,
        "visibility": served.visibility,
        "owner_tenant": served.owner_tenant,
        "files": [str(path) for path in files],
    }
    session.out.show(
        answer,
        lambda console: _render_deployed(
            console,
            name,
            registered.model.input_schema.get("required"),
            version.number,
            f"{served.visibility}",
            files,
        ),
    )


def _deploy_remotely(
    session: Session,
    url: str,
    wanted: Wanted,
    test: tuple[str, ...],
    visibility: Visibility | None,
    output: Path,
) -> None:
    import time

    from quickthaw.cli.remote.deploying import deploy_remotely, forget_old, memory_folder
    from quickthaw.cli.remote.gateway import RemoteGateway, find_key
    from quickthaw.cli.remote.uploading import Uploader

    key, memory = find_key(url, session.data_dir), memory_folder()
    with RemoteGateway(url, key) as gateway:
        uploader = Uploader(gateway, key, memory)
        forget_old(memory, time.time())
        done = deploy_remotely(gateway, uploader, wanted, test, visibility, output)
    name, number = str(done.deployment["name"]), int(done.deployment["version"])
    required = done.deployment["input_schema"].get("required")
    session.out.show(
        {"deployment": done.deployment, "files": [str(path) for path in done.files]},
        lambda console: _render_deployed(console, name, required, number, "", done.files),
    )


def _render_deployed(
    console: Console,
    name: str,
    required: JsonValue,
    number: int,
    visibility: str,
    files: Sequence[Path],
) -> None:
    seen = f", {visibility}" if visibility else ""
    console.print(f"{name} is deployed: version {number}{seen}")
    for path in files:
        console.print(f"its self-test drew {path}", soft_wrap=True)
    inputs = [f'{each}="..."' for each in required] if isinstance(required, list) else []
    console.print(f"run it:   quickthaw run {' '.join((name, *inputs))}", soft_wrap=True)
    console.print(f"over HTTP: POST /run/{name}, or /queue/{name} to ask for it later")


@session_command(app, "versions")
def versions(session: Session, model: ModelArgument) -> None:
    """What a model has been, the newest version first."""
    with session.client() as client:
        found = list(client.models.versions(model))
    session.out.show(found, lambda console: _render_versions(console, found))


def _render_versions(console: Console, found: Sequence[ModelVersion]) -> None:
    from quickthaw.cli.render import clock, listing, literal, size, table

    rows = [
        (
            each.number,
            "serves" if each.current else "",
            clock(each.model.registered_unix_ms),
            size(each.model.size_bytes),
            each.model.snapshot_digest[:16],
            literal(each.model.description),
        )
        for each in found
    ]
    headings = ("version", "", "deployed", "weights", "snapshot", "about")
    listing(console, table(headings, rows, "weights"), "no versions")


@session_command(app, "rollback")
def rollback(
    session: Session,
    model: ModelArgument,
    version: Annotated[int, typer.Argument(metavar="VERSION", help="As `versions` numbers it.")],
) -> None:
    """Make a model one of its versions again, at once. Needs an admin key, or its owner's.

    Requests accepted before run as what they were accepted for. The other versions stay.
    """
    with session.client() as client:
        back = client.models.rollback(model, version)
    answer = {"model": back.model, "version": version, "changed": back.changed}
    session.out.show(
        answer, lambda console: console.print(f"{back.model.id} is version {version} again")
    )


@session_command(app, "delete")
def delete(session: Session, model: ModelArgument) -> None:
    """Take a model and all its versions away, at once. Needs an admin key, or its owner's.

    Accepted requests still run. Its files stay until `quickthaw deploy gc`.
    """
    with session.client() as client:
        client.models.remove(model)
    session.out.show({"deleted": model}, lambda console: console.print(f"{model} is deleted"))


@session_command(app, "gc")
def gc(
    session: Session,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, and leave it.")
    ] = False,
) -> None:
    """Delete the files that no version of any model needs any more. Needs an admin key.

    Only what was deployed and then deleted goes, from the platform's store on this machine; what
    other snapshots or open requests share stays. What lies in buckets is listed, never touched.
    """
    from quickthaw.cli.snapshots import collect_unused, local_data_dir
    from quickthaw.snapshot import SnapshotStore

    with session.client() as client:
        store = SnapshotStore(local_data_dir(session, client) / "snapshots")
        done = collect_unused(store, client.models.unused_snapshots(), dry_run=dry_run)

    def render(console: Console) -> None:
        from quickthaw.cli.render import size

        count = len(done.snapshots)
        gone = f"{count} snapshot{'' if count == 1 else 's'} {'would go' if dry_run else 'went'}"
        freed = "in their files" if dry_run else "freed"
        console.print(f"{gone}, {size(done.freed_bytes)} {freed}")
        for each in done.elsewhere:
            console.print(f"{each.digest[:16]} in {each.uri} is not needed", soft_wrap=True)

    session.out.show(done, render)
