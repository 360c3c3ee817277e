"""The request that a new version has to answer before anybody else meets it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from quickthaw.cli.errors import UsageFault
from quickthaw.cli.looking import check_output
from quickthaw.cli.progress import choose_view
from quickthaw.cli.running import save_files
from quickthaw.cli.trial_values import missing, plain_values
from quickthaw.cli.values import parse_inputs
from quickthaw.client import Client, JsonValue, Model, ModelEndpoint, Request, Visibility
from quickthaw.wire.errors import ModelNotFound

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

    Raises what the request failed with, DeadlineExpired, and EngineFailed for what has nothing on
    it. The model's own name is not touched.
    """
    with _staged(client, model) as name:
        view = choose_view(quiet=quiet)
        with view:
            request = client.run(name, values, on_event=view.take, deadline_seconds=timeout_seconds)
        for artifact in request.artifacts:
            content = client.read_artifact(artifact)
            check_output(content, artifact.content_type, *_BY_COMMAND)
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
