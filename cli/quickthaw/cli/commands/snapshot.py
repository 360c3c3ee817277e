"""`quickthaw snapshot ...`: pack, inspect, verify and list snapshots on disk. Needs no platform."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.commands import compile as compile_command
from quickthaw.cli.commands import snapshot_remote
from quickthaw.cli.commands.snapshot_diff import diff
from quickthaw.cli.errors import UsageFault
from quickthaw.cli.output import Output
from quickthaw.cli.packing import bar, fetched, packing_bar, quiet_libraries, read_defaults
from quickthaw.cli.session import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Snapshots: pack, compile, inspect, diff, verify, list; push, pull and ls elsewhere.",
    no_args_is_help=True,
)
app.command("diff")(diff)
app.command("push")(snapshot_remote.push)
app.command("pull")(snapshot_remote.pull)
app.command("ls")(snapshot_remote.list_remote)
app.command("compile")(compile_command.compile_blocks)
SnapshotArgument = Annotated[
    Path, typer.Argument(metavar="SNAPSHOT", help="A folder as `pack` writes it.")
]
DigestOption = Annotated[
    str | None,
    typer.Option(metavar="DIGEST", help="Which one, where the folder holds several."),
]


@app.command("pack")
def pack(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A diffusers folder, hf:OWNER/REPO[@REVISION], or with --base one safetensors "
            "file: weights or a LoRA.",
        ),
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="SNAPSHOT", help="A folder; made if it is new, else added to.")
    ],
    family: Annotated[
        str | None,
        typer.Option(help="sd, sdxl, flux, ... Default: what the source says."),
    ] = None,
    title: Annotated[str, typer.Option(help="One line about it.", show_default=False)] = "",
    licence: Annotated[
        str, typer.Option("--license", "--licence", help="Of the weights.", show_default=False)
    ] = "",
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="The snapshot that SOURCE is a fine-tune or a LoRA of, by its digest in SNAPSHOT "
            "or its folder: only what differs is stored. Or a diffusers folder with the "
            "configuration for a single safetensors file.",
            show_default=False,
        ),
    ] = None,
    component: Annotated[
        str | None, typer.Option(help="Which component a single safetensors file holds.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Convert the weights: float16, bfloat16 or float32.")
    ] = None,
    quantize: Annotated[
        str | None, typer.Option(help="Store weights in eight bits: fp8 or int8.")
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="With --quantize: components by name or kind, with commas. "
            "Default: denoiser,text_encoder.",
            show_default=False,
        ),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="How strongly a LoRA acts. Default: 1.", show_default=False),
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="What an input is where a request does not give it, written as for `run`; may be "
            "repeated. It replaces the family's default.",
            show_default=False,
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Turn a pipeline into a snapshot that workers load at the speed of the hardware.

    Nothing but safetensors is read; pickle files are refused.

    ```
    quickthaw snapshot pack ./turbo ./turbo-snapshot --default num_inference_steps=4
    quickthaw snapshot pack ./stable-diffusion-xl ./sdxl-snapshot --dtype float16
    quickthaw snapshot pack ./finetune.safetensors ./sdxl-snapshot --base ./stable-diffusion-xl
    quickthaw snapshot pack hf:stabilityai/stable-diffusion-xl-base-1.0 ./sdxl-snapshot
    quickthaw snapshot pack ./my-tune ./sdxl-snapshot --base 3f2a91c0
    quickthaw snapshot pack ./style.safetensors ./sdxl-snapshot --base 3f2a91c0 --scale 0.8
    quickthaw snapshot pack ./flux ./flux-snapshot --quantize fp8 --only denoiser,text_encoder_2
    ```
    """
    from quickthaw.snapshot import SnapshotStore
    from quickthaw.snapshot.pack import pack as pack_snapshot

    quiet_libraries()
    source = fetched(source)
    defaults = read_defaults(default, source, base, destination) if default else None
    with packing_bar(source.name) as on_progress:
        digest = pack_snapshot(
            source,
            SnapshotStore(destination),
            family=family,
            title=title,
            licence=licence,
            defaults=defaults,
            base=base,
            component=component,
            dtype=dtype,
            quantize=quantize,
            only=tuple(name.strip() for name in only.split(",") if name.strip()) if only else (),
            scale=scale,
            on_progress=on_progress,
        )
    answer = {"digest": digest, "snapshot": str(destination)}
    Output(json_).show(answer, lambda console: console.print(digest))


@app.command("inspect")
def inspect(
    snapshot: SnapshotArgument, digest: DigestOption = None, json_: JsonOption = False
) -> None:
    """What a snapshot holds, from its manifest and headers; no weights are read."""
    from quickthaw.snapshot import describe

    described = describe(snapshot, digest)

    def render(console: Console) -> None:
        from quickthaw.cli.render import literal, pairs, size, table

        names = ("digest", "title", "licence", "family", "pipeline", "created_by")
        pairs(console, [(name.replace("_", " "), literal(described[name])) for name in names])
        parts = described["components"]
        rows = [
            (
                p["name"],
                p["class"] or f"LoRA of {p['adapter']['target']}, rank {p['adapter']['rank']}",
                " ".join(p["dtypes"]) if p["quantization"] is None else p["quantization"],
                size(p["data_bytes"]),
                size(p["stored_bytes"]),
                p["digest"][:16],
            )
            for p in parts
        ]
        stored = sum(p["stored_bytes"] for p in parts)
        rows.append(("total", "", "", size(described["weight_bytes"]), size(stored), ""))
        headings = ("component", "class", "weights", "size", "stored", "digest")
        console.print(table(headings, rows, "size stored"))
        for p in parts:
            if p["delta"] is not None:
                base, depth = p["delta"]["base"][:16], p["delta"]["layers"]
                console.print(f"[dim]{p['name']}: {depth} layer(s) over {base}[/dim]")

    Output(json_).show(described, render)


@app.command("verify")
def verify(
    snapshot: Annotated[
        Path | None,
        typer.Argument(
            metavar="[SNAPSHOT]",
            help="A folder as `pack` writes it. Default: the snapshots of the default data "
            "directory.",
        ),
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Only this one, where the folder holds several."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Read every byte and compare every hash; name everything that is wrong.

    Exits 1 if anything is. With --json one object, or a list where several were verified.
    """
    from quickthaw.client import default_data_dir
    from quickthaw.snapshot import locate
    from quickthaw.snapshot.reader import StoreReader
    from quickthaw.snapshot.verify import verify as verify_snapshot
    from quickthaw.snapshot.verify import verify_store

    place = snapshot or default_data_dir() / "snapshots"
    if digest is None and len(list(StoreReader(place))) > 1:
        with bar(f"verifying {place}", None) as (progress, task):
            reports = list(verify_store(place, on_bytes=lambda size: progress.advance(task, size)))
    else:
        total = locate(place, digest).manifest.weight_bytes
        with bar(f"verifying {place.name}", total) as (progress, task):
            reports = [
                verify_snapshot(place, digest, on_bytes=lambda size: progress.advance(task, size))
            ]

    def render(console: Console) -> None:
        from quickthaw.cli.render import literal, size

        for report in reports:
            for finding in report.findings:
                what = f"{literal(finding.problem)}: {literal(finding.message)}"
                console.print(f"[red]{literal(finding.part)}[/red]: {what}")
            outcome = "intact" if report.intact else f"{len(report.findings)} problem(s)"
            console.print(f"{report.digest[:16]}: {outcome}, {size(report.checked_bytes)} checked")
        if not all(report.intact for report in reports):
            console.print("pack or fetch it again: an intact copy replaces what is damaged here")

    Output(json_).show(reports if len(reports) > 1 else reports[0], render)
    if not all(report.intact for report in reports):
        raise typer.Exit(1)


@app.command("list")
def list_snapshots(
    store: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FOLDER]", help="Default: the snapshots of the default data directory."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """The snapshots in a folder, with what their components share counted once."""
    from quickthaw.client import default_data_dir
    from quickthaw.snapshot import SnapshotStore

    if store is not None and not store.is_dir():
        raise UsageFault(f"{store}: no such folder")
    place = SnapshotStore(store or default_data_dir() / "snapshots")
    found = []
    for digest in place:
        manifest = place.open(digest).manifest
        found.append(
            {
                "digest": digest,
                "title": manifest.title,
                "family": manifest.family,
                "weight_bytes": manifest.weight_bytes,
                "components": [part.digest for part in manifest.components],
            }
        )

    def render(console: Console) -> None:
        from quickthaw.cli.render import listing, literal, size, table

        rows = [
            (
                each["digest"],
                literal(each["family"]),
                size(float(str(each["weight_bytes"]))),
                literal(each["title"]),
            )
            for each in found
        ]
        listed = table(("digest", "family", "weights", "title"), rows, "weights")
        listing(console, listed, f"no snapshots in {place.root}")

    Output(json_).show(found, render)
