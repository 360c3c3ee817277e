"""`quickthaw snapshot push`, `pull` and `ls`: snapshots in buckets, on web servers, in folders."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quickthaw.cli.output import Output, stderr
from quickthaw.cli.session import JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from quickthaw.snapshot import Snapshot, SnapshotStore, StoreReader
    from quickthaw.snapshot.remote import RemoteSettings
    from quickthaw.snapshot.remote.pull import PullProgress

UrlArgument = Annotated[
    str,
    typer.Argument(
        metavar="URL", help="s3://BUCKET/PREFIX, gs://, az://, https://, file:// or a folder."
    ),
]
EndpointOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Of an S3-compatible server. Default: $AWS_ENDPOINT_URL, else AWS itself.",
        show_default=False,
    ),
]
ParallelOption = Annotated[int, typer.Option(help="Ranges in flight at once.")]
StoreOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="The local store. Default: the snapshots of the default data directory.",
        show_default=False,
    ),
]


def _settings(endpoint: str | None, parallel: int) -> RemoteSettings:
    from quickthaw.snapshot.remote import RemoteSettings

    return RemoteSettings(endpoint=endpoint, parallel=parallel).from_environment(os.environ)


def _local(store: Path | None) -> Path:
    from quickthaw.client import default_data_dir

    return store or default_data_dir() / "snapshots"


@contextmanager
def _travelling(text: str) -> Iterator[Callable[[PullProgress], None]]:
    """A bar with rate and time left on stderr; nothing where that is no terminal."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = stderr()
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done: progress.update(task, completed=done.done_bytes, total=done.total_bytes)


def push(
    digest: Annotated[
        str,
        typer.Argument(metavar="DIGEST", help="Of the snapshot, or as much as makes it unique."),
    ],
    url: UrlArgument,
    store: StoreOption = None,
    endpoint: EndpointOption = None,
    parallel: ParallelOption = 8,
    json_: JsonOption = False,
) -> None:
    """Send a snapshot to a bucket or folder; what is there already is not sent again.

    Every file is compared with its SHA-256 on the way, and the manifest goes last, so what can be
    seen there is complete. Credentials come from the environment (AWS_ACCESS_KEY_ID and so on).

    ```
    quickthaw snapshot push 3f2a91c0 s3://models/quickthaw --endpoint https://minio.local:9000
    ```
    """
    from quickthaw.snapshot import locate
    from quickthaw.snapshot.remote import open_writable
    from quickthaw.snapshot.remote.push import push as push_snapshot

    found = locate(_local(store), digest)
    remote = open_writable(url, _settings(endpoint, parallel))
    with _travelling(f"pushing {found.digest[:12]}") as on_progress:
        pushed = push_snapshot(found.store, found.digest, remote, on_progress=on_progress)

    def render(console: Console) -> None:
        from quickthaw.cli.render import size

        console.print(
            f"{pushed.digest}: {size(pushed.sent_bytes)} sent, "
            f"{size(pushed.present_bytes)} there before"
        )

    Output(json_).show(pushed, render)


def pull(
    url: UrlArgument,
    digest: Annotated[
        str | None,
        typer.Argument(
            metavar="[DIGEST]", help="Which one; may be left out if it is the only one."
        ),
    ] = None,
    store: StoreOption = None,
    endpoint: EndpointOption = None,
    parallel: ParallelOption = 8,
    mend: Annotated[
        bool, typer.Option("--mend", help="Also read what is here, and replace what is damaged.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Bring a snapshot into the local store; what is here already does not travel.

    Interrupted, even killed, it goes on where it stopped when it is called again. Nothing enters
    the store before its SHA-256 was compared.

    ```
    quickthaw snapshot pull https://models.example.com/quickthaw 3f2a91c0...
    ```
    """
    from quickthaw.snapshot import SnapshotStore
    from quickthaw.snapshot.remote import open_remote
    from quickthaw.snapshot.remote.pull import pull as pull_snapshot

    settings = _settings(endpoint, parallel)
    with closing(open_remote(url, settings)) as remote:
        wanted = digest or _only(url, settings)
        with _travelling(f"pulling {wanted[:12]}") as on_progress:
            pulled = pull_snapshot(
                SnapshotStore(_local(store)),
                remote,
                wanted,
                settings,
                mend=mend,
                on_progress=on_progress,
            )

    def render(console: Console) -> None:
        from quickthaw.cli.render import size

        console.print(
            f"{pulled.digest}: {size(pulled.fetched_bytes)} fetched, "
            f"{size(pulled.present_bytes)} here before"
        )

    Output(json_).show(pulled, render)


def _only(url: str, settings: RemoteSettings) -> str:
    from quickthaw.snapshot.remote import open_writable
    from quickthaw.snapshot.remote.push import digests_in
    from quickthaw.wire.errors import InvalidArgument, NotFound

    if url.startswith(("http://", "https://")):
        raise InvalidArgument(f"{url}: a web server cannot be listed; name the snapshot's digest")
    found = digests_in(open_writable(url, settings))
    if not found:
        raise NotFound(f"{url} holds no snapshot; `quickthaw snapshot push` puts one there")
    if len(found) > 1:
        raise NotFound(
            f"{url} holds {len(found)} snapshots; name one by its digest, "
            "`quickthaw snapshot ls` lists them"
        )
    return found[0]


def open_pushed(url: str, digest: str | None) -> Snapshot:
    """The snapshot's manifest, read from where it was pushed to; nothing is kept here.

    Raises as `pull`.
    """
    from quickthaw.snapshot import Snapshot, SnapshotStore
    from quickthaw.snapshot.manifest_json import parse_manifest
    from quickthaw.snapshot.remote import open_remote
    from quickthaw.snapshot.remote.pull import fetch_manifest

    settings = _settings(None, 8)
    wanted = digest or _only(url, settings)
    with closing(open_remote(url, settings)) as remote:
        encoded = fetch_manifest(remote, wanted)
    manifest = parse_manifest(encoded, f"{url}, snapshot {wanted}")
    return Snapshot(wanted, manifest, SnapshotStore(Path(url)))


def send(store: StoreReader, digest: str, url: str) -> None:
    """Pushes a snapshot, with a bar. Raises as `push`."""
    from quickthaw.snapshot.remote import open_writable
    from quickthaw.snapshot.remote.push import push as push_snapshot

    remote = open_writable(url, _settings(None, 8))
    with _travelling(f"pushing {digest[:12]}") as on_progress:
        push_snapshot(store, digest, remote, on_progress=on_progress)


def bring_from(url: str, digest: str, store: SnapshotStore) -> None:
    """Pulls a snapshot into `store`, with a bar. Raises as `pull`."""
    from quickthaw.snapshot.remote import open_remote
    from quickthaw.snapshot.remote.pull import pull as pull_snapshot

    settings = _settings(None, 8)
    with (
        closing(open_remote(url, settings)) as remote,
        _travelling(f"pulling {digest[:12]}") as on_progress,
    ):
        pull_snapshot(store, remote, digest, settings, on_progress=on_progress)


def list_remote(
    url: UrlArgument,
    endpoint: EndpointOption = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 1000,
    json_: JsonOption = False,
) -> None:
    """The snapshots in a bucket or folder."""
    from quickthaw.cli.errors import UsageFault
    from quickthaw.snapshot.remote import open_writable
    from quickthaw.snapshot.remote.push import list_snapshots

    # To push makes a folder; to look into one must not.
    if "://" not in url and not Path(url).expanduser().is_dir():
        raise UsageFault(f"{url}: no such folder")
    found = [
        {
            "digest": each.digest,
            "title": each.manifest.title if each.manifest else "",
            "family": each.manifest.family if each.manifest else "",
            "weight_bytes": each.manifest.weight_bytes if each.manifest else 0,
            "problem": each.problem,
        }
        for each in list_snapshots(open_writable(url, _settings(endpoint, 8)), limit)
    ]

    def render(console: Console) -> None:
        from quickthaw.cli.render import listing, literal, size, table

        rows = [
            (
                each["digest"],
                each["family"],
                size(float(str(each["weight_bytes"]))),
                literal(each["problem"] or each["title"]),
            )
            for each in found
        ]
        listed = table(("digest", "family", "weights", "title"), rows, "weights")
        listing(console, listed, f"no snapshots in {url}")

    Output(json_).show(found, render)
