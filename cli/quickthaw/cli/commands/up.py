"""`quickthaw up`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from quickthaw.cli.up.settings import UpSettings

app = typer.Typer()


@app.command("up")
def up(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Everything the platform keeps: journal, keys, snapshots, pictures, logs. "
            "Default: $QUICKTHAW_DATA_DIR, else ~/.local/share/quickthaw.",
            show_default=False,
        ),
    ] = None,
    http: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where HTTP is served.")
    ] = "127.0.0.1:7080",
    grpc: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where gRPC is served.")
    ] = "127.0.0.1:7070",
    metrics: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where the scheduler's metrics are served.")
    ] = "127.0.0.1:7071",
    workers: Annotated[
        int | None,
        typer.Option(help="How many. Default: one per GPU, else one.", show_default=False),
    ] = None,
    workers_min: Annotated[
        int | None,
        typer.Option(
            "--workers-min", help="With --workers-max: how many stay.", show_default=False
        ),
    ] = None,
    workers_max: Annotated[
        int | None,
        typer.Option(
            "--workers-max",
            help="As many as the traffic needs, up to this; instead of --workers. With "
            "--workers-min 0 (the default then) none runs while there is nothing to do.",
            show_default=False,
        ),
    ] = None,
    scale_down_delay: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="For how long fewer must do before some are let go."),
    ] = 60.0,
    device: Annotated[str, typer.Option(help="What they run on: auto, cpu or cuda.")] = "auto",
    fleet: Annotated[
        str, typer.Option(help="Who starts them: local (child processes) or ray.")
    ] = "local",
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The journal: sqlite:///PATH or postgresql://... Default: $QUICKTHAW_STORE, where "
            "a URL with a password belongs, else SQLite in DIR.",
            show_default=False,
        ),
    ] = None,
    blob_store: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where output files go: a folder or s3://... Default: DIR/blobs.",
            show_default=False,
        ),
    ] = None,
    new_tenant_credit: Annotated[
        str | None,
        typer.Option(
            metavar="DOLLARS",
            help="What a new tenant may spend until it is granted more. Default: no bound.",
            show_default=False,
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A price table in TOML.", show_default=False),
    ] = None,
    vram_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="What a worker may use of its device's memory, such as 8GiB. Default: all.",
            show_default=False,
        ),
    ] = None,
    pinned_bytes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Host memory that a worker registers for models kept one copy away from the "
            "device. Default: a part of what is free.",
            show_default=False,
        ),
    ] = None,
    compiled: Annotated[
        str,
        typer.Option(
            help="Whether workers run compiled blocks: off, use (what `snapshot compile` made), or "
            "build (what requests find missing, in the background)."
        ),
    ] = "off",
    no_packer: Annotated[
        bool,
        typer.Option("--no-packer", help="Tenants cannot have models of their own packed here."),
    ] = False,
    pack_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where files are while they are packed; one that another user can reach, with "
            "--set packer.pack-user=NAME. Default: DIR/packer.",
            show_default=False,
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Serve what tenants deploy from s3://BUCKET/PREFIX, gs://, az:// or a folder, so "
            "that workers on other machines start it. Default: DIR/snapshots.",
            show_default=False,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            help="A certificate with its chain: gRPC by TLS, and HTTP too. Read again when it is "
            "renewed.",
            show_default=False,
        ),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Its key.", show_default=False)
    ] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            metavar="PEM",
            help="By gRPC let in only who shows a certificate that these authorities signed.",
            show_default=False,
        ),
    ] = None,
    log_level: Annotated[
        str, typer.Option(help="Of the parts: debug, info, warning or error.")
    ] = "info",
    drain_seconds: Annotated[
        int,
        typer.Option(
            min=0, metavar="SECONDS", help="How long what runs may take to end at SIGTERM."
        ),
    ] = 30,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PART.NAME=VALUE",
            help="An option of the scheduler, worker, gateway or packer, as its own --help lists "
            "them: limits, queues, batches. May be repeated.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the whole platform on this machine until it is told to stop.

    Starts the scheduler, the workers and the gateway, and starts again what dies. When all is ready
    one line is printed on stdout:

    `quickthaw ready http=URL grpc=HOST:PORT metrics=URL key-file=PATH`

    Port 0 picks a free one. Ctrl-C or SIGTERM lets what runs end, then exits 0; a second one kills.
    The parts' logs are in `DIR/logs`; `DIR/prometheus-targets.json` lists their metrics in the
    format of Prometheus' file_sd.

    ```
    quickthaw up
    quickthaw up --data-dir ./data --http 0.0.0.0:8080 --workers 2 --device cpu
    quickthaw up --set scheduler.queue-max=50000 --set worker.batch-max=4
    quickthaw up --http 127.0.0.1:0 --grpc 127.0.0.1:0 --metrics 127.0.0.1:0
    ```
    """
    from quickthaw.cli.commands.budget import parse_dollars
    from quickthaw.cli.up.passing import passed_on
    from quickthaw.cli.up.settings import UpSettings, parse_address
    from quickthaw.client import default_data_dir
    from quickthaw.wire.tls_settings import server_tls

    settings = UpSettings(
        data_dir=(data_dir or default_data_dir()).expanduser().absolute(),
        http=parse_address("--http", http),
        grpc=parse_address("--grpc", grpc),
        metrics=parse_address("--metrics", metrics),
        workers=workers,
        workers_min=workers_min,
        workers_max=workers_max,
        scale_down_delay_seconds=scale_down_delay,
        device=device,
        fleet=fleet,
        store=store or os.environ.get("QUICKTHAW_STORE"),
        blob_store=blob_store,
        prices=_absolute(prices),
        new_tenant_credit_nanodollars=(
            parse_dollars(new_tenant_credit, "--new-tenant-credit") if new_tenant_credit else 0
        ),
        vram_bytes=vram_bytes,
        pinned_bytes=pinned_bytes,
        compiled=compiled,
        packer=not no_packer,
        pack_dir=_absolute(pack_dir),
        push=push,
        log_level=log_level,
        drain_seconds=drain_seconds,
        tls=server_tls(_absolute(tls_cert), _absolute(tls_key), _absolute(tls_client_ca)),
        options=passed_on(set_ or []),
    )
    import asyncio

    asyncio.run(_run(settings))


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path is not None else None


async def _run(settings: UpSettings) -> None:
    import asyncio

    from quickthaw.cli.up.datadir import locked
    from quickthaw.cli.up.devices import visible_gpus
    from quickthaw.cli.up.platform import Platform
    from quickthaw.wire.blob_store import check_blob_store

    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    report = reporter()

    def on_signal() -> None:
        if stop.is_set():
            hurry.set()
            return
        report("stopping; what runs may end (once more to kill it)")
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    with locked(settings.data_dir):
        await check_blob_store(settings.blobs)
        await Platform(settings, visible_gpus(os.environ), report, announce).run(stop, hurry)
    report("stopped")


def announce(values: Mapping[str, str]) -> None:
    """The ready line: the one thing that `up` says on stdout."""
    print("quickthaw ready", *(f"{name}={value}" for name, value in values.items()), flush=True)


def reporter() -> Callable[[str], None]:
    """Progress for a person, on stderr."""
    if sys.stderr.isatty():
        from quickthaw.cli.output import stderr

        console = stderr()
        return lambda text: console.print(f"[dim]·[/dim] {text}")
    return lambda text: print(f"quickthaw: {text}", file=sys.stderr, flush=True)
