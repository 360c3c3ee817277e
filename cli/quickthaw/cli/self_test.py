"""The request that a new version has to answer before anybody else meets it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from quickthaw.cli.errors import UsageFault
from quickthaw.cli.progress import choose_view
from quickthaw.cli.running import save_files
from quickthaw.cli.values import parse_inputs
from quickthaw.client import Client, JsonValue, Model, ModelEndpoint, Request, Visibility
from quickthaw.wire.errors import EngineFailed, ModelNotFound

PLAIN: Mapping[str, JsonValue] = {"prompt": "a red circle above a blue square", "seed": 7}
"""What is asked for, of what a model takes, where nothing else is given."""
_BY_COMMAND = ("--dtype ", "; --no-self-test deploys them all the same")


def test_input(model: Model, given: tuple[str, ...]) -> dict[str, JsonValue]:
    """What was given, as `name=value`, and a plain prompt and seed where they were not.

    Raises UsageFault for what the model does not take, and for what it needs and nobody gave.
    """
    values = {**plain_values(model), **parse_inputs(given, model.input_schema, model.id)}
    for name in missing(model, values):
        raise UsageFault(
            f"the self-test cannot make up {name}", f"give --test {name}=..., or --no-self-test"
        )
    return values


def plain_values(model: Model) -> dict[str, JsonValue]:
    """What a self-test asks for, of what the model takes."""
    properties = model.input_schema.get("properties")
    takes = properties if isinstance(properties, Mapping) else {}
    return {name: value for name, value in PLAIN.items() if name in takes}


def missing(model: Model, values: Mapping[str, JsonValue]) -> list[str]:
    """Inputs that the model needs and `values` lacks."""
    required = model.input_schema.get("required")
    names = required if isinstance(required, list) else []
    return [str(name) for name in names if name not in values]


def draw(
    client: Client,
    model: Model,
    values: Mapping[str, JsonValue],
    output: Path,
    timeout_seconds: float,
    *,
    quiet: bool,
) -> tuple[Request, list[Path]]:
    """Runs the model under a name of its own, and saves what it made.

    Raises what the request failed with, DeadlineExpired, and EngineFailed for a picture without a
    drawing on it. The model's own name is not touched.
    """
    with _staged(client, model) as name:
        view = choose_view(quiet=quiet)
        with view:
            request = client.run(name, values, on_event=view.take, deadline_seconds=timeout_seconds)
        for artifact in request.artifacts:
            if artifact.content_type.startswith("image/"):
                check_picture(client.read_artifact(artifact), *_BY_COMMAND)
        files = save_files(client, replace(request, model=model.id), output)
    return request, files


@contextmanager
def _staged(client: Client, model: Model) -> Iterator[str]:
    """In the catalog for as long as the block, for the caller alone.

    The name depends on the content only, so that what a killed command left is taken over by the
    next one.
    """
    name = f"self-test/{model.snapshot_digest[:32]}"
    client.models.register(
        replace(model, id=name, aliases=()), ModelEndpoint(name, visibility=Visibility.PRIVATE)
    )
    try:
        yield name
    except BaseException:
        print(f"the self-test did not succeed; {model.id} is as it was", file=sys.stderr)
        raise
    finally:
        # Another deployment of the same content may have ended first.
        with suppress(ModelNotFound):
            client.models.remove(name)


def check_picture(content: bytes, dtype: str = "dtype ", otherwise: str = "") -> None:
    """Weights that overflow make pictures of a single colour, and no error. Raises EngineFailed,
    which says `dtype` before the types to try, and at its end what can be done otherwise."""
    from PIL import Image

    with Image.open(BytesIO(content)) as picture:
        # The colours if there are no more than that, else None.
        one_colour = picture.convert("RGB").getcolors(maxcolors=1) is not None
    if one_colour:
        raise EngineFailed(
            f"the self-test's picture has one colour only: the weights may overflow in their type "
            f"(try {dtype}bfloat16 or float32) or be for another base{otherwise}"
        )
