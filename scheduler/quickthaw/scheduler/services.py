"""The scheduler's services, made of its parts and added to its server."""

from __future__ import annotations

from dataclasses import dataclass

import grpc.aio

from quickthaw.scheduler.artifacts import Artifacts
from quickthaw.scheduler.budgeting import Budgeting
from quickthaw.scheduler.catalog import Catalog
from quickthaw.scheduler.clock import Clock
from quickthaw.scheduler.deployments import DeploymentLimits, Deployments
from quickthaw.scheduler.dispatcher import Dispatcher
from quickthaw.scheduler.explanations import Explanations
from quickthaw.scheduler.holds import Holds
from quickthaw.scheduler.key_gate import KeyGate
from quickthaw.scheduler.keys import KeyRing
from quickthaw.scheduler.loras import LoraPlaces
from quickthaw.scheduler.metrics import SchedulerMetrics
from quickthaw.scheduler.quotas import QuotaLimits, Quotas
from quickthaw.scheduler.releasing import Releasing
from quickthaw.scheduler.requests import Requests
from quickthaw.scheduler.servicers.accounts import AccountsServicer
from quickthaw.scheduler.servicers.billing import BillingServicer
from quickthaw.scheduler.servicers.catalog import CatalogServicer
from quickthaw.scheduler.servicers.deployments import DeploymentsServicer
from quickthaw.scheduler.servicers.fleet import FleetServicer
from quickthaw.scheduler.servicers.inference import InferenceServicer
from quickthaw.scheduler.servicers.traffic import TrafficServicer
from quickthaw.scheduler.servicers.webhooks import WebhooksServicer
from quickthaw.scheduler.settings import Limits
from quickthaw.scheduler.store.store import Store
from quickthaw.scheduler.submissions import Submissions
from quickthaw.scheduler.webhook_keys import WebhookKeys
from quickthaw.scheduler.webhooks import Webhooks
from quickthaw.scheduler.worker_streams import WorkerStreams
from quickthaw.v1 import (
    billing_pb2_grpc,
    catalog_pb2_grpc,
    deployments_pb2_grpc,
    fleet_pb2_grpc,
    inference_pb2_grpc,
    traffic_pb2_grpc,
    webhooks_pb2_grpc,
)

HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Parts:
    """What services share. Every request that was open has been recovered."""

    limits: Limits
    clock: Clock
    store: Store
    metrics: SchedulerMetrics
    keys: KeyRing
    catalog: Catalog
    dispatcher: Dispatcher
    streams: WorkerStreams
    explanations: Explanations
    artifacts: Artifacts
    loras: LoraPlaces


async def add_services(server: grpc.aio.Server, parts: Parts) -> None:
    """Before the server starts. Raises StoreUnavailable and the like."""
    webhooks = Webhooks(
        store=parts.store,
        dispatcher=parts.dispatcher,
        clock=parts.clock,
        tenant_in_flight_max=parts.limits.webhook_tenant_in_flight_max,
        poll_seconds=parts.limits.webhook_poll_ms / 1000,
    )
    await webhooks.recover()
    requests = Requests(parts.dispatcher, parts.store, parts.catalog, parts.metrics)
    _add_requests(server, parts, requests, webhooks)
    _add_models(server, parts)
    _add_money(server, parts)
    traffic_pb2_grpc.add_TrafficServicer_to_server(TrafficServicer(parts.store.reader), server)
    webhook_keys = await WebhookKeys.load(parts.store, parts.clock)
    webhooks_pb2_grpc.add_WebhooksServicer_to_server(
        WebhooksServicer(webhooks, webhook_keys, parts.clock), server
    )


def _add_requests(
    server: grpc.aio.Server, parts: Parts, requests: Requests, webhooks: Webhooks
) -> None:
    """Who asks, and who answers."""
    limits = parts.limits
    submissions = Submissions(
        catalog=parts.catalog,
        dispatcher=parts.dispatcher,
        store=parts.store,
        idempotency_retention_ms=limits.idempotency_retention_hours * HOUR_MS,
        webhooks=webhooks,
        gate=KeyGate(parts.keys, parts.dispatcher.live, parts.clock),
        loras=parts.loras,
    )
    inference_pb2_grpc.add_InferenceServicer_to_server(
        InferenceServicer(
            submissions,
            requests,
            parts.artifacts,
            Holds(parts.clock, limits.realtime_hold_ms),
            realtime_in_flight_max=limits.realtime_in_flight_max,
            run_many_in_flight_max=limits.run_many_in_flight_max,
        ),
        server,
    )
    fleet_pb2_grpc.add_FleetServicer_to_server(
        FleetServicer(
            dispatcher=parts.dispatcher,
            streams=parts.streams,
            requests=requests,
            catalog=parts.catalog,
            metrics=parts.metrics,
            explanations=parts.explanations,
            artifacts=parts.artifacts,
        ),
        server,
    )


def _add_models(server: grpc.aio.Server, parts: Parts) -> None:
    catalog, store, clock = parts.catalog, parts.store, parts.clock
    releasing = Releasing(catalog, store, clock, parts.dispatcher)
    catalog_pb2_grpc.add_CatalogServicer_to_server(
        CatalogServicer(catalog, releasing, store, clock, parts.dispatcher), server
    )
    deployments_pb2_grpc.add_DeploymentsServicer_to_server(
        DeploymentsServicer(_deployments(parts, releasing), catalog, clock), server
    )


def _deployments(parts: Parts, releasing: Releasing) -> Deployments:
    limits = parts.limits
    return Deployments(
        store=parts.store,
        catalog=parts.catalog,
        releasing=releasing,
        quotas=Quotas(
            parts.catalog,
            parts.store.reader,
            QuotaLimits(limits.tenant_snapshots_max, limits.tenant_snapshot_bytes_max),
        ),
        clock=parts.clock,
        limits=DeploymentLimits(
            open_max=limits.deployments_waiting_max,
            tenant_open_max=limits.tenant_deployments_max,
            attempts_max=limits.deployment_attempts_max,
            tenant_kept_max=limits.tenant_deployments_kept_max,
            retention_hours=limits.deployment_retention_hours,
        ),
    )


def _add_money(server: grpc.aio.Server, parts: Parts) -> None:
    budgeting = Budgeting(parts.dispatcher, parts.store.reader)
    billing_pb2_grpc.add_BillingServicer_to_server(
        BillingServicer(parts.store.reader, budgeting, parts.dispatcher.machine.prices), server
    )
    billing_pb2_grpc.add_AccountsServicer_to_server(
        AccountsServicer(
            journal=parts.store.journal,
            reader=parts.store.reader,
            keys=parts.keys,
            clock=parts.clock,
            metrics=parts.metrics,
            budgeting=budgeting,
            new_tenant_credit_nanodollars=parts.limits.new_tenant_credit_nanodollars,
        ),
        server,
    )
