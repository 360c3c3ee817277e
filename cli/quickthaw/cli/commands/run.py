"""`quickthaw run` and `quickthaw quote`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.session import Session, session_command

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.client import Client, Event, JsonValue, Quote, Request
    from quickthaw.client.inference import SubmitOptions

app = typer.Typer()

DEADLINE_SECONDS_MAX = 366 * 86_400
PRICE_CAP_DOLLARS_MAX = 1_000_000
PREVIEWS = 8
"""About so many a run, if they are shown."""

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Catalog id or alias.")]
InputsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME=VALUE]...",
        help="Inputs, read as the model's schema says: numbers, true/false, WIDTHxHEIGHT, JSON. "
        "NAME=@FILE reads text from a file; files that pictures and LoRAs are read from are named "
        "by URL or by path (./x, ../x, /x, ~/x).",
        show_default=False,
    ),
]
PriorityOption = Annotated[str, typer.Option(help="Among your own requests: low, normal or high.")]
DeadlineOption = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Fail the request if it has not ended by then."),
]
WorkerOption = Annotated[
    str, typer.Option("--worker", metavar="ID", help="Prefer this worker.", show_default=False)
]
PriceCapOption = Annotated[
    float | None,
    typer.Option(metavar="DOLLARS", help="Refuse rather than pay more for the run."),
]


@session_command(app, "run")
def run(
    session: Session,
    model: ModelArgument,
    inputs: InputsArgument = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the files are saved.")
    ] = Path("quickthaw-output"),
    stream: Annotated[
        bool,
        typer.Option(
            "--stream", help="Print every event as it comes, and save every preview as a file."
        ),
    ] = False,
    priority: PriorityOption = "normal",
    deadline: DeadlineOption = None,
    worker: WorkerOption = "",
    price_cap: PriceCapOption = None,
) -> None:
    """Run a model, save what it makes, and show the receipt.

    On a terminal a progress bar and a small preview follow the run. Ctrl-C cancels the request.
    With `--json` one object is printed: the request, its receipt, the paths of its files. With
    `--stream --json` every line is an event, the last one `finished`.

    ```
    quickthaw run shapes prompt="a red circle above a blue square" seed=7
    quickthaw run shapes prompt=@prompt.txt num_images=4 image_size=64x64 --output pictures
    quickthaw run me/sdxl prompt="a fox" loras='[{"path": "./style.safetensors", "scale": 0.8}]'
    quickthaw run shapes prompt="a green triangle" --json | jq .receipt.price_nanodollars
    ```
    """
    from quickthaw.cli.progress import choose_view
    from quickthaw.cli.running import EventPrinter, check_folder, save_files
    from quickthaw.wire.errors import QuickthawError

    with session.client() as client:
        previews = stream or (sys.stderr.isatty() and not session.out.as_json)
        values = read_inputs(client, model, inputs or [], previews, session.data_dir)
        check_folder(output)
        printer = EventPrinter(session.out, output, enabled=stream)
        view = choose_view(quiet=stream or session.out.as_json)

        def on_event(event: Event) -> None:
            printer.take(event)
            view.take(event)

        options = submit_options(priority, deadline, worker, price_cap)
        try:
            with view:
                request = client.run(model, values, on_event=on_event, **options)
        except KeyboardInterrupt:
            if printer.request_id:
                print(f"cancelled request {printer.request_id}", file=sys.stderr)
            raise
        try:
            files = save_files(client, request, output)
        except (OSError, QuickthawError):
            again = f"quickthaw requests save {request.request_id}"
            print(f"the request succeeded; `{again}` fetches its files", file=sys.stderr)
            raise
        if stream:
            printer.finish(request, files)
        else:
            _show(session, request, files)


def _show(session: Session, request: Request, files: list[Path]) -> None:
    from quickthaw.cli.running import as_json

    def render(console: Console) -> None:
        from quickthaw.cli.render import ended

        ended(console, request, files)

    session.out.show(as_json(request, files), render)


@session_command(app, "quote")
def quote(
    session: Session,
    model: ModelArgument,
    inputs: InputsArgument = None,
    priority: PriorityOption = "normal",
    deadline: DeadlineOption = None,
    worker: WorkerOption = "",
    price_cap: PriceCapOption = None,
) -> None:
    """Say where a request would run now, when it would start, and what it would cost.

    Nothing is submitted or reserved.

    ```
    quickthaw quote shapes prompt="a red circle" num_images=4
    ```
    """
    with session.client() as client:
        values = read_inputs(client, model, inputs or [], False, session.data_dir)
        options = submit_options(priority, deadline, worker, price_cap)
        answer = client.quote(model, values, **options)
    session.out.show(answer, lambda console: _render_quote(console, answer))


def _render_quote(console: Console, answer: Quote) -> None:
    from quickthaw.cli import render

    def both(low: str, high: str) -> str:
        return low if low == high else f"{low} [dim](95 %: {high})[/dim]"

    def spans(estimate: object) -> str:
        p50, p95 = getattr(estimate, "p50", 0.0), getattr(estimate, "p95", 0.0)
        return both(render.seconds(p50), render.seconds(p95))

    price = answer.price_nanodollars
    render.pairs(
        console,
        (
            ("worker", answer.worker_id or "none yet"),
            ("start", f"in {spans(answer.start_seconds)}"),
            ("load", f"{spans(answer.load_seconds)} from {answer.start_tier}"),
            ("run", spans(answer.run_seconds)),
            ("price", both(render.money(price.p50), render.money(price.p95))),
            ("rate", f"{render.money(answer.rate_nanodollars_per_second)}/s"),
        ),
    )


def read_inputs(
    client: Client,
    model: str,
    pairs: list[str],
    wants_previews: bool,
    data_dir: Path | None = None,
) -> Mapping[str, JsonValue]:
    """The input that the pairs spell; with about eight previews a run, if they are wanted."""
    from quickthaw.cli.bringing import bring
    from quickthaw.cli.values import parse_inputs

    found = client.models.get(model)
    schema = found.input_schema
    values = parse_inputs(pairs, schema, model)
    inputs = _mapping(schema.get("properties"))
    if wants_previews and "preview_every" not in values and "preview_every" in inputs:
        by_default = _mapping(inputs.get("num_inference_steps")).get("default")
        steps = values.get("num_inference_steps", by_default)
        values["preview_every"] = -(-steps // PREVIEWS) if isinstance(steps, int) else 4
    # By its id: the gateway's paths have no place for an alias without an owner.
    return bring(found.id, values, schema, data_dir)


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, Mapping) else {}


def submit_options(
    priority: str, deadline: float | None, worker: str, price_cap: float | None
) -> SubmitOptions:
    from quickthaw.cli.errors import UsageFault
    from quickthaw.client import Priority, SubmitOptions

    if priority not in ("low", "normal", "high"):
        raise UsageFault(f"--priority {priority!r}: choose low, normal or high")
    options = SubmitOptions(priority=Priority(priority), worker_hint=worker)
    if deadline is not None:
        if not 0 < deadline <= DEADLINE_SECONDS_MAX:
            raise UsageFault(
                f"--deadline {deadline:g}: give seconds from now, more than 0 and at most "
                f"{DEADLINE_SECONDS_MAX} (a year)"
            )
        options["deadline_seconds"] = deadline
    if price_cap is not None:
        # On the wire 0 means no cap; whoever writes 0 here means the opposite.
        if not 1e-9 <= price_cap <= PRICE_CAP_DOLLARS_MAX:
            raise UsageFault(
                f"--price-cap {price_cap:g}: give dollars, from 0.000000001 to "
                f"{PRICE_CAP_DOLLARS_MAX}"
            )
        options["price_cap_nanodollars"] = round(price_cap * 1e9)
    return options
