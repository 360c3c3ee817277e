"""One leased deployment: fetched, packed, tried, handed in; reported on all the while."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

from obstore.store import ObjectStore

from quickthaw.cli.commands.snapshot_remote import send
from quickthaw.cli.making import Recipe, base_in
from quickthaw.cli.packer import trial, uploads
from quickthaw.cli.packer.order import Order, Packing, without
from quickthaw.cli.packer.packing import pack
from quickthaw.cli.packer.settings import PackerSettings
from quickthaw.cli.packer.staging import Staging
from quickthaw.cli.snapshots import model_of
from quickthaw.client import (
    AsyncClient,
    Deployment,
    DeploymentFile,
    DeploymentReport,
    DeploymentState,
    Failure,
    JsonValue,
    LeasedDeployment,
    Model,
)
from quickthaw.snapshot import Snapshot, SnapshotStore
from quickthaw.snapshot.files import FULL
from quickthaw.wire.errors import (
    DeadlineExpired,
    ModelNotFound,
    QuickthawError,
    ResourceExhausted,
    SnapshotInvalid,
    StorageFull,
    Unauthenticated,
    Unavailable,
)
from quickthaw.wire.status import translate
from quickthaw.wire.uploads import UploadRecord

logger = logging.getLogger(__name__)

_PASSING = (Unavailable, StorageFull, DeadlineExpired, Unauthenticated)
"""What may not happen again when the same is tried later."""


class LeaseLost(Exception):
    """Somebody else has it, or it was cancelled: whatever was done is to be forgotten."""


class Job:
    def __init__(
        self,
        client: AsyncClient,
        settings: PackerSettings,
        store: ObjectStore,
        leased: LeasedDeployment,
    ) -> None:
        self._client = client
        self._settings = settings
        self._limits = settings.limits
        self._uploads = store
        self._leased = leased
        self._deployment = leased.deployment
        self._spec = leased.deployment.spec
        folder = settings.work_dir / leased.deployment.deployment_id
        self._staging = Staging(folder, settings.pack_user)
        self._now = DeploymentReport(DeploymentState.PACKING, step="starting")
        self._news = asyncio.Event()
        """Set when a step begins, which is told at once; bytes are told now and then."""

    async def run(self) -> None:
        """To its end, and reported, unless the lease is lost meanwhile. What it has done stays for
        another try, if there may be one."""
        name = f"{self._deployment.deployment_id} ({self._spec.model})"
        ended = True
        try:
            model = await self._followed()
            await self._report(replace(self._now, step="registering", packed=model))
            logger.info("%s is registered", name)
        except LeaseLost:
            logger.info("%s was taken back", name)
        except QuickthawError as error:
            logger.info("%s failed: %s", name, error.message)
            ended = await self._tell_failure(error)
        except asyncio.CancelledError:
            ended = False
            raise
        except OSError as error:
            logger.exception("%s failed on this machine", name)
            ended = await self._tell_failure(_of_this_machine(error))
        except Exception as error:
            # With its traceback in our log; the tenant gets an opaque text.
            ended = await self._tell_failure(translate(error))
        finally:
            if ended:
                await asyncio.to_thread(self._staging.remove)

    async def _followed(self) -> Model:
        """The work, with a report now and then. Raises LeaseLost with the work undone."""
        work = asyncio.create_task(self._work())
        try:
            while not work.done():
                news = asyncio.create_task(self._news.wait())
                await asyncio.wait(
                    {work, news},
                    timeout=self._limits.report_seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                news.cancel()
                self._news.clear()
                if not work.done():
                    await self._heartbeat()
                    most = self._limits.pack_disk_bytes_max
                    await asyncio.to_thread(self._staging.check_room, most)
            return work.result()
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _heartbeat(self) -> None:
        try:
            await self._report(self._now)
        except Unavailable as error:
            # The lease is in the scheduler's store: it may still be ours when that is back.
            logger.warning("the scheduler does not answer: %s", error.message)

    async def _report(self, report: DeploymentReport) -> Deployment:
        """As it is then. Raises LeaseLost."""
        lease_ms = round(self._limits.lease_seconds * 1000)
        after = await self._client.deployments.report(
            self._deployment.deployment_id, self._leased.lease_id, lease_ms, report
        )
        if after is None:
            raise LeaseLost
        return after

    async def _tell_failure(self, error: QuickthawError) -> bool:
        """Whether that was its end, and not only that of this try."""
        failure = Failure(error.reason, error.message, isinstance(error, _PASSING), ())
        try:
            after = await self._report(replace(self._now, failure=failure))
        except LeaseLost:
            return True  # It was cancelled at that moment.
        except QuickthawError as unheard:
            # The lease runs out, and it is tried again.
            logger.warning("a failure could not be reported: %s", unheard.message)
            return False
        return after.finished_unix_ms > 0

    # ---- the work ------------------------------------------------------------------------------

    async def _work(self) -> Model:
        store = SnapshotStore(self._settings.snapshots)
        snapshot = await asyncio.to_thread(self._staging.packed, store)
        if snapshot is None:
            await asyncio.to_thread(self._staging.prepare)
            source = await self._fetched()
            snapshot = await self._packed(store, source)
            await asyncio.to_thread(self._staging.keep, snapshot.digest)
        else:
            logger.info("%s was packed before", self._deployment.deployment_id)
        if self._settings.push is not None:
            self._step("bringing the snapshot to where workers read")
            await asyncio.to_thread(send, store, snapshot.digest, self._settings.push)
        model = model_of(snapshot, self._spec.model, uri=self._settings.push)
        self._now = DeploymentReport(DeploymentState.TESTING)
        self._step("drawing")
        drawn = await trial.draw(
            self._client, model, self._deployment, self._limits.test_seconds_max, self._drawing
        )
        if drawn.preview is not None:
            await uploads.keep_preview(self._uploads, drawn.request_id, drawn.preview.data)
        self._now = replace(self._now, self_test_request_id=drawn.request_id)
        return model

    async def _fetched(self) -> Path:
        """The file, or the folder with all of them."""
        files = self._spec.files
        self._step("fetching the files", total_bytes=sum(each.size_bytes for each in files))
        try:
            async with asyncio.timeout(self._limits.fetch_seconds_max):
                records = [
                    await uploads.find(self._uploads, self._deployment.tenant, each)
                    for each in files
                ]
                for each, record in zip(files, records, strict=True):
                    await self._fetch(each, record)
        except TimeoutError as error:
            raise ResourceExhausted(
                f"fetching the files took longer than {self._limits.fetch_seconds_max:g} s"
            ) from error
        root = self._staging.files
        return root / files[0].path if len(files) == 1 else root

    async def _fetch(self, file: DeploymentFile, record: UploadRecord) -> None:
        """Brings it, unless an earlier try did."""

        def on_bytes(count: int) -> None:
            self._now = replace(self._now, done_bytes=self._now.done_bytes + count)

        if await asyncio.to_thread(self._staging.holds, file.path, file.file_id):
            logger.info("%s is here from an earlier try", file.path)
            on_bytes(file.size_bytes)
            return
        self._now = replace(self._now, step=f"fetching {file.path}")
        place = self._staging.files / file.path
        digest = await uploads.fetch(self._uploads, record, place, on_bytes)
        self._staging.note(file.path, file.file_id, digest)

    async def _packed(self, store: SnapshotStore, source: Path) -> Snapshot:
        spec, staging = self._spec, self._staging
        base: Snapshot | None = None
        if spec.base:
            if self._leased.base is None:
                raise ModelNotFound(f"the base {spec.base!r} is gone")
            self._step(f"bringing the base {self._leased.base.id}")
            base = await asyncio.to_thread(base_in, store, self._leased.base)
            await asyncio.to_thread(staging.bring_base, base)
        await asyncio.to_thread(staging.open_up)
        order = Order(
            source=str(source),
            hidden=staging.hidden,
            snapshots=str(staging.store),
            # The files are those of the deployment, but its base may have changed since.
            finished=str(staging.store / f"finished-{base.digest if base else 'alone'}.json"),
            bases=str(staging.base),
            base_digest=base.digest if base else "",
            recipe=Recipe(
                base=spec.base or None,
                family=spec.family or None,
                component=spec.component or None,
                dtype=spec.dtype or None,
                quantize=spec.quantize or None,
                scale=spec.scale or None,
                title=spec.title,
                licence=spec.license,
            ),
            data_bytes_max=self._limits.pack_bytes_max,
            rooms=staging.rooms,
            defaults=cast("Mapping[str, JsonValue]", spec.defaults or {}),
        )
        self._step("packing")
        digest = await pack(order, staging.home, self._limits.pack_seconds_max, self._packing)
        self._step("checking what was packed")
        try:
            return await asyncio.to_thread(store.adopt, staging.store, digest, base)
        except SnapshotInvalid as error:
            raise SnapshotInvalid(without(staging.hidden, error.message)) from error

    def _step(self, step: str, total_bytes: int = 0) -> None:
        self._now = replace(self._now, step=step, done_bytes=0, total_bytes=total_bytes)
        self._news.set()

    def _packing(self, told: Packing) -> None:
        self._now = replace(
            self._now,
            step=told.component,
            done_bytes=told.done_bytes,
            total_bytes=told.total_bytes,
        )

    def _drawing(self, step: str, done: int, steps: int, request_id: str) -> None:
        text = f"{step}, step {done} of {steps}" if steps else step
        self._now = replace(self._now, step=text, self_test_request_id=request_id)


def _of_this_machine(error: OSError) -> QuickthawError:
    """What no tenant can help, and another try, perhaps another packer, may be without."""
    if error.errno in FULL:
        return StorageFull("the packer's disk is full")
    return Unavailable(f"the packer's machine does not work: {error.strerror}")
