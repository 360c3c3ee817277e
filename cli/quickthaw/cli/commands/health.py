"""`quickthaw health`."""

from __future__ import annotations

from typing import Annotated

import typer

from quickthaw.cli.errors import EXIT_FAILED, EXIT_OK
from quickthaw.cli.session import Session, session_command

app = typer.Typer()


@session_command(app, "health")
def health(
    session: Session,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="How long to wait for an answer.")
    ] = 5.0,
) -> None:
    """Ask whether the scheduler serves: exit status 0 if it does, else 1.

    For probes; it needs no key. A standby does not serve.

    ```
    quickthaw health
    quickthaw health --grpc grpcs://localhost:7070 --tls-ca ca.pem --json
    ```
    """
    status = "serving" if session.is_serving(timeout) else "not_serving"
    session.out.show({"status": status}, lambda _: print(status.replace("_", " ")))
    raise typer.Exit(EXIT_OK if status == "serving" else EXIT_FAILED)
