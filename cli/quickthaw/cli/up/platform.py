"""All parts in the order in which they need each other, up and down again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from pathlib import Path

from quickthaw.cli.errors import PartFailed
from quickthaw.cli.fleet import Provisioner, Ready
from quickthaw.cli.fleet.local import LocalFleet
from quickthaw.cli.up import bundled, parts, workers
from quickthaw.cli.up.datadir import KeptFiles, check_free, write_json, write_targets
from quickthaw.cli.up.fleet_keeper import FleetKeeper
from quickthaw.cli.up.keeper import Keeper
from quickthaw.cli.up.process import Command
from quickthaw.cli.up.scaling import Scaler
from quickthaw.cli.up.settings import UpSettings
from quickthaw.client import AsyncClient, WorkerState
from quickthaw.client.settings import RUN_FILE, read_key_file
from quickthaw.wire.tls_settings import TLS_SCHEME

ATTACH_POLL_SECONDS = 0.1


class Platform:
    """`run` it once. `report` gets a line of progress, `announce` the ready line's values."""

    def __init__(
        self,
        settings: UpSettings,
        gpus: int,
        report: Callable[[str], None],
        announce: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._settings = settings
        self._gpus = gpus
        self._report = report
        self._announce = announce
        self._metrics: dict[str, str] = {}
        self._pids: dict[str, int] = {}
        self._scheduler = Keeper(self._scheduler_command, settings, report, self._note)
        self._gateway = Keeper(self._gateway_command, settings, report, self._note)
        self._packer = Keeper(self._packer_command, settings, report, self._note)
        self._fleet = self._provisioner()
        self._keepers: set[asyncio.Task[None]] = set()
        self._fallen = asyncio.Event()
        """Set when a keeper has ended, which it only does because it gave up."""
        self._files = KeptFiles(self._write_files, report)

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> None:
        """Starts everything and keeps it until `stop`; `hurry` kills instead of draining.

        Nothing is left running when it returns or raises: PartFailed, or what a setting is wrong
        about (AddressInUse, SettingsInvalid).
        """
        for what, address in (
            ("the HTTP gateway (--http)", self._settings.http),
            ("the gRPC scheduler (--grpc)", self._settings.grpc),
            ("the metrics endpoint (--metrics)", self._settings.metrics),
        ):
            check_free(what, address)
        if exposed := self._settings.exposed:
            self._report(f"warning: {exposed}")
        try:
            await self._race(self._start(), stop)
            if not stop.is_set():
                await self._race(stop.wait(), stop)
        finally:
            await self._stop(hurry)

    async def _start(self) -> None:
        settings = self._settings
        self._report("starting the scheduler")
        await self._fleet.open()
        await self._scheduler.start()
        self._keep(self._scheduler.keep())
        client = AsyncClient(self._grpc, read_key_file(self._admin_key_file))
        async with client:
            prepare = await bundled.register(settings, client, self._report)
            self._report("starting the workers and the gateway")
            offers = await self._fleet.offers()
            gpus = sum(offer.count for offer in offers if offer.device == "cuda")
            specs = workers.specs(settings, gpus, self._dialled_by_workers, prepare)
            first = (settings.workers_min or 0) if settings.elastic else len(specs)
            fleet = FleetKeeper(
                self._fleet, specs, settings, self._report, self._note_worker, first
            )
            self._keep(fleet.keep())
            for keeper in (self._gateway, *([self._packer] if settings.packer else [])):
                await keeper.start()
                self._keep(keeper.keep())
            async with asyncio.timeout(settings.start_timeout_seconds):
                await fleet.all_ready.wait()
                await self._attached(client, set(fleet.wanted))
        if settings.elastic:
            self._keep(self._scale(fleet, len(specs)))
        self._write_files()
        self._keep(self._files.keep())
        self._announce(
            {
                "http": self._gateway.values["http"],
                "grpc": self._scheduler.values["grpc"],
                "metrics": self._scheduler.values["metrics"],
                "key-file": str(self._admin_key_file),
            }
        )

    async def _scale(self, fleet: FleetKeeper, most: int) -> None:
        client = AsyncClient(self._grpc, read_key_file(self._admin_key_file))
        async with client:
            await Scaler(client, fleet, self._settings.workers_min or 0, most).run()

    async def _attached(self, client: AsyncClient, wanted: set[str]) -> None:
        while True:
            listed = await client.workers.list()
            if wanted <= {w.worker_id for w in listed if w.state is WorkerState.READY}:
                return
            await asyncio.sleep(ATTACH_POLL_SECONDS)

    async def _race(self, work: Coroutine[object, object, object], stop: asyncio.Event) -> None:
        """Does the work, unless `stop` or the end of a keeper comes first."""
        task = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(stop.wait())
        fallen = asyncio.ensure_future(self._fallen.wait())
        try:
            await asyncio.wait({task, stopped, fallen}, return_when=asyncio.FIRST_COMPLETED)
            for ended in (*self._keepers, task):
                if ended.done():
                    ended.result()
        except TimeoutError as error:
            raise PartFailed(
                f"the platform was not ready within {self._settings.start_timeout_seconds:g} s; "
                f"its logs are in {self._settings.logs}"
            ) from error
        finally:
            for waiting in (task, stopped, fallen):
                waiting.cancel()
            await asyncio.gather(task, stopped, fallen, return_exceptions=True)

    async def _stop(self, hurry: asyncio.Event) -> None:
        """The gateway and the workers first, which end what they have; then the scheduler."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        with suppress(OSError):  # a disk that has become read-only keeps nobody from draining
            (self._settings.data_dir / RUN_FILE).unlink(missing_ok=True)
        killer = asyncio.create_task(self._kill_when(hurry))
        try:
            await asyncio.gather(self._gateway.stop(), self._packer.stop(), self._fleet.close())
            await self._scheduler.stop()
        finally:
            killer.cancel()

    async def _kill_when(self, hurry: asyncio.Event) -> None:
        await hurry.wait()
        self._report("killing what is left")
        for keeper in (self._gateway, self._packer, self._scheduler):
            keeper.kill()
        if isinstance(self._fleet, LocalFleet):
            self._fleet.kill()

    def _keep(self, work: Coroutine[object, object, None]) -> None:
        keeper = asyncio.create_task(work)
        self._keepers.add(keeper)
        keeper.add_done_callback(lambda _: self._fallen.set())

    def _provisioner(self) -> Provisioner:
        if self._settings.fleet == "ray":
            from quickthaw.cli.fleet.ray import RayFleet

            return RayFleet(self._settings.logs)
        return LocalFleet(self._settings.logs, self._gpus, log_level=self._settings.log_level)

    @property
    def _grpc(self) -> str:
        """As this machine calls the scheduler: in plain text, at an address of its own with TLS."""
        values = self._scheduler.values
        return values.get("local", values["grpc"])

    @property
    def _dialled_by_workers(self) -> str:
        elsewhere = self._settings.fleet != "local"
        return self._scheduler.values["grpc"] if elsewhere else self._grpc

    @property
    def _admin_key_file(self) -> Path:
        return self._settings.data_dir / parts.ADMIN_KEY_FILE

    def _scheduler_command(self, before: Mapping[str, str]) -> Command:
        metrics = before.get("metrics", "").removeprefix("http://").partition("/")[0]
        return parts.scheduler(
            self._settings,
            before.get("grpc", str(self._settings.grpc)).removeprefix(TLS_SCHEME),
            metrics or str(self._settings.metrics),
            before.get("local", "127.0.0.1:0"),
        )

    def _gateway_command(self, before: Mapping[str, str]) -> Command:
        http = before.get("http", "").removeprefix("http://").rstrip("/")
        return parts.gateway(self._settings, self._grpc, http or str(self._settings.http))

    def _packer_command(self, before: Mapping[str, str]) -> Command:
        return parts.packer(self._settings, self._grpc)

    def _note(self, name: str, values: Mapping[str, str]) -> None:
        if "metrics" in values:
            self._metrics[name] = values["metrics"]
        keepers = {
            "scheduler": self._scheduler,
            "gateway": self._gateway,
            "packer": self._packer,
        }
        self._pids[name] = keepers[name].pid or 0
        walls = f"; walls: {values['walls']}" if "walls" in values else ""
        self._report(f"the {name} is ready{walls}")
        self._files.changed.set()

    def _note_worker(self, change: Ready) -> None:
        self._metrics[f"worker-{change.worker_id}"] = change.metrics
        self._pids[change.worker_id] = change.pid
        self._report(f"worker {change.worker_id} is ready")
        self._files.changed.set()

    def _write_files(self) -> None:
        write_targets(self._settings.data_dir, self._metrics)
        write_json(
            self._settings.data_dir / RUN_FILE,
            {
                "grpc": self._grpc,
                "http": self._gateway.values["http"],
                "metrics": self._scheduler.values["metrics"],
                "key_file": str(self._admin_key_file),
                "pid": os.getpid(),
                "pids": self._pids,
                "logs": str(self._settings.logs),
            },
        )
