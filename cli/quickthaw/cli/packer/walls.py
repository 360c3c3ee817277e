"""Which walls stand around the process that packs: found by trying, when a packer starts."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from quickthaw.cli.packer.isolation import Wall
from quickthaw.cli.packer.packing import start
from quickthaw.cli.packer.settings import PackerSettings
from quickthaw.cli.packer.staging import Staging
from quickthaw.wire.errors import FailedPrecondition, SettingsInvalid

REQUIRED = (Wall.FILES, Wall.NETWORK)
"""What `--require-walls` insists on: the others only stand in front of these."""
PROBE_SECONDS_MAX = 60.0
_FOLDER = "probe"


async def find_walls(settings: PackerSettings) -> tuple[Wall, ...]:
    """Those that stand. Raises FailedPrecondition if some are required and do not, and
    SettingsInvalid for a user that cannot work here."""
    staging = Staging(settings.work_dir / _FOLDER, settings.pack_user)
    try:
        staging.prepare()
        answer = await _probed(staging, secrets_of(settings))
    finally:
        shutil.rmtree(staging.root, ignore_errors=True)
    if closed := answer["unreachable"]:
        raise SettingsInvalid(
            f"--pack-user {settings.pack_user}: {closed} is closed to that user; give a --work-dir "
            "and a Python that it can reach, or open the folders above with chmod o+x"
        )
    # Whatever was put up: what counts is what could still be reached.
    opened = answer["opened"]
    stand = {Wall(name) for name in answer["walls"]} - set(REQUIRED)
    stand |= {Wall.FILES} if not opened else set()
    stand |= {Wall.NETWORK} if not answer["has_network"] else set()
    walls = [wall for wall in Wall if wall in stand]
    missing = [wall for wall in REQUIRED if wall not in walls]
    if settings.require_walls and missing:
        could = f" (it could open {', '.join(opened)})" if opened else ""
        raise FailedPrecondition(
            f"--require-walls: around the process that reads tenants' files there is no wall for "
            f"{' and '.join(missing)} here{could}; it takes Linux 5.19 with Landlock, or root and "
            "--pack-user, for files, and user namespaces or seccomp for the network"
        )
    return tuple(walls)


def secrets_of(settings: PackerSettings) -> tuple[Path, ...]:
    """Files and folders of the platform on this machine that no tenant's process may open."""
    blobs = urlsplit(settings.blob_store)
    local = (unquote(blobs.path),) if blobs.scheme in ("", "file") else ()
    named = (settings.key_file, settings.snapshots, *map(Path, local), settings.work_dir)
    return tuple(path.expanduser().absolute() for path in named)


async def _probed(staging: Staging, secrets: tuple[Path, ...]) -> dict[str, Any]:
    question = {"rooms": asdict(staging.rooms), "secrets": [str(path) for path in secrets]}
    process = await start("quickthaw.cli.packer.probe", staging.home)
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            said, told = await process.communicate(json.dumps(question).encode())
    except TimeoutError as error:
        raise FailedPrecondition(
            f"the process that packs gave no answer within {PROBE_SECONDS_MAX:g} s"
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        answer: dict[str, Any] = json.loads(said)
    except ValueError as error:
        last = told.decode(errors="replace").strip().rpartition("\n")[2]
        raise FailedPrecondition(f"the process that packs cannot start here: {last}") from error
    return answer
