"""The RPCs of quickthaw.v1 that the client calls: path, request and response of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from quickthaw.v1 import (
    billing_pb2,
    catalog_pb2,
    deployments_pb2,
    fleet_pb2,
    inference_pb2,
    traffic_pb2,
    types_pb2,
    webhooks_pb2,
)

RequestT_co = TypeVar("RequestT_co", bound=Message, covariant=True)
ResponseT_co = TypeVar("ResponseT_co", bound=Message, covariant=True)


@dataclass(frozen=True, slots=True)
class Method(Generic[RequestT_co, ResponseT_co]):
    """One RPC. `repeatable`: calling it twice does no more than calling it once."""

    path: str
    request: type[RequestT_co]
    response: type[ResponseT_co]
    repeatable: bool = True


# A submission is repeatable because the client always sends an idempotency key.
SUBMIT = Method(
    "/quickthaw.v1.Inference/Submit", inference_pb2.SubmitRequest, inference_pb2.SubmitResponse
)
GET = Method("/quickthaw.v1.Inference/Get", inference_pb2.GetRequest, types_pb2.Request)
LIST = Method(
    "/quickthaw.v1.Inference/List",
    inference_pb2.ListRequestsRequest,
    inference_pb2.ListRequestsResponse,
)
WATCH = Method("/quickthaw.v1.Inference/Watch", inference_pb2.WatchRequest, inference_pb2.Event)
CANCEL = Method(
    "/quickthaw.v1.Inference/Cancel", inference_pb2.CancelRequest, inference_pb2.CancelResponse
)
QUOTE = Method(
    "/quickthaw.v1.Inference/Quote", inference_pb2.SubmitRequest, inference_pb2.QuoteResponse
)
REALTIME = Method(
    "/quickthaw.v1.Inference/Realtime",
    inference_pb2.RealtimeRequest,
    inference_pb2.RealtimeResponse,
    repeatable=False,
)
RUN_MANY = Method(
    "/quickthaw.v1.Inference/RunMany",
    inference_pb2.RunManyRequest,
    inference_pb2.RunManyResponse,
    repeatable=False,
)
READ_ARTIFACT = Method(
    "/quickthaw.v1.Inference/ReadArtifact",
    inference_pb2.ReadArtifactRequest,
    inference_pb2.ReadArtifactResponse,
)

REGISTER = Method(
    "/quickthaw.v1.Catalog/Register", catalog_pb2.RegisterRequest, catalog_pb2.RegisterResponse
)
GET_MODEL = Method("/quickthaw.v1.Catalog/GetModel", catalog_pb2.GetModelRequest, catalog_pb2.Model)
LIST_MODELS = Method(
    "/quickthaw.v1.Catalog/ListModels",
    catalog_pb2.ListModelsRequest,
    catalog_pb2.ListModelsResponse,
)
# Not repeatable: the second call would say that there is no such model.
REMOVE = Method(
    "/quickthaw.v1.Catalog/Remove",
    catalog_pb2.RemoveRequest,
    catalog_pb2.RemoveResponse,
    repeatable=False,
)

LIST_VERSIONS = Method(
    "/quickthaw.v1.Catalog/ListVersions",
    catalog_pb2.ListVersionsRequest,
    catalog_pb2.ListVersionsResponse,
)
ROLLBACK = Method(
    "/quickthaw.v1.Catalog/Rollback", catalog_pb2.RollbackRequest, catalog_pb2.RegisterResponse
)
LIST_UNUSED_SNAPSHOTS = Method(
    "/quickthaw.v1.Catalog/ListUnusedSnapshots",
    catalog_pb2.ListUnusedSnapshotsRequest,
    catalog_pb2.ListUnusedSnapshotsResponse,
)

GET_ENDPOINT = Method(
    "/quickthaw.v1.Catalog/GetEndpoint", catalog_pb2.GetEndpointRequest, catalog_pb2.Endpoint
)
SET_ENDPOINT = Method(
    "/quickthaw.v1.Catalog/SetEndpoint", catalog_pb2.SetEndpointRequest, catalog_pb2.Endpoint
)
LIST_ENDPOINTS = Method(
    "/quickthaw.v1.Catalog/ListEndpoints",
    catalog_pb2.ListEndpointsRequest,
    catalog_pb2.ListEndpointsResponse,
)
RELEASE_QUARANTINE = Method(
    "/quickthaw.v1.Catalog/ReleaseQuarantine",
    catalog_pb2.ReleaseQuarantineRequest,
    catalog_pb2.Endpoint,
)

LIST_WORKERS = Method(
    "/quickthaw.v1.Fleet/ListWorkers", fleet_pb2.ListWorkersRequest, fleet_pb2.ListWorkersResponse
)
DRAIN = Method("/quickthaw.v1.Fleet/Drain", fleet_pb2.DrainRequest, fleet_pb2.DrainResponse)
CORDON = Method("/quickthaw.v1.Fleet/Cordon", fleet_pb2.CordonRequest, fleet_pb2.CordonResponse)
UNCORDON = Method(
    "/quickthaw.v1.Fleet/Uncordon", fleet_pb2.UncordonRequest, fleet_pb2.UncordonResponse
)
EXPLAIN = Method("/quickthaw.v1.Fleet/Explain", fleet_pb2.ExplainRequest, fleet_pb2.ExplainResponse)

LIST_TRAFFIC = Method(
    "/quickthaw.v1.Traffic/ListTraffic",
    traffic_pb2.ListTrafficRequest,
    traffic_pb2.ListTrafficResponse,
)

GET_USAGE = Method(
    "/quickthaw.v1.Billing/GetUsage", billing_pb2.GetUsageRequest, billing_pb2.GetUsageResponse
)
LIST_LEDGER = Method(
    "/quickthaw.v1.Billing/ListLedger",
    billing_pb2.ListLedgerRequest,
    billing_pb2.ListLedgerResponse,
)
GET_PRICES = Method(
    "/quickthaw.v1.Billing/GetPrices", billing_pb2.GetPricesRequest, billing_pb2.GetPricesResponse
)

GET_ACCOUNT = Method(
    "/quickthaw.v1.Billing/GetAccount", billing_pb2.GetAccountRequest, billing_pb2.Account
)
LIST_ACCOUNTS = Method(
    "/quickthaw.v1.Billing/ListAccounts",
    billing_pb2.ListAccountsRequest,
    billing_pb2.ListAccountsResponse,
)
SET_BUDGET = Method(
    "/quickthaw.v1.Billing/SetBudget", billing_pb2.SetBudgetRequest, billing_pb2.Account
)
# Repeatable because the client names every grant.
GRANT_CREDIT = Method(
    "/quickthaw.v1.Billing/GrantCredit",
    billing_pb2.GrantCreditRequest,
    billing_pb2.GrantCreditResponse,
)
SET_LOCK = Method("/quickthaw.v1.Billing/SetLock", billing_pb2.SetLockRequest, billing_pb2.Account)
LIST_ALERTS = Method(
    "/quickthaw.v1.Billing/ListAlerts",
    billing_pb2.ListAlertsRequest,
    billing_pb2.ListAlertsResponse,
)

# Not repeatable: a second call would make a second key, and the first one's secret would be lost.
CREATE_KEY = Method(
    "/quickthaw.v1.Accounts/CreateKey",
    billing_pb2.CreateKeyRequest,
    billing_pb2.CreateKeyResponse,
    repeatable=False,
)
LIST_KEYS = Method(
    "/quickthaw.v1.Accounts/ListKeys", billing_pb2.ListKeysRequest, billing_pb2.ListKeysResponse
)
REVOKE_KEY = Method(
    "/quickthaw.v1.Accounts/RevokeKey", billing_pb2.RevokeKeyRequest, billing_pb2.RevokeKeyResponse
)

# Not repeatable: a second call would make a third secret, and end the first at once.
ROTATE_KEY = Method(
    "/quickthaw.v1.Accounts/RotateKey",
    billing_pb2.RotateKeyRequest,
    billing_pb2.RotateKeyResponse,
    repeatable=False,
)
UPDATE_KEY = Method(
    "/quickthaw.v1.Accounts/UpdateKey", billing_pb2.UpdateKeyRequest, billing_pb2.UpdateKeyResponse
)

# Not repeatable: a second call would make, or hold, a second one.
CREATE_DEPLOYMENT = Method(
    "/quickthaw.v1.Deployments/Create",
    deployments_pb2.CreateDeploymentRequest,
    deployments_pb2.Deployment,
    repeatable=False,
)
LEASE_DEPLOYMENT = Method(
    "/quickthaw.v1.Deployments/Lease",
    deployments_pb2.LeaseDeploymentRequest,
    deployments_pb2.LeaseDeploymentResponse,
    repeatable=False,
)
GET_DEPLOYMENT = Method(
    "/quickthaw.v1.Deployments/Get",
    deployments_pb2.GetDeploymentRequest,
    deployments_pb2.Deployment,
)
LIST_DEPLOYMENTS = Method(
    "/quickthaw.v1.Deployments/List",
    deployments_pb2.ListDeploymentsRequest,
    deployments_pb2.ListDeploymentsResponse,
)
CANCEL_DEPLOYMENT = Method(
    "/quickthaw.v1.Deployments/Cancel",
    deployments_pb2.CancelDeploymentRequest,
    deployments_pb2.Deployment,
)
REPORT_DEPLOYMENT = Method(
    "/quickthaw.v1.Deployments/Report",
    deployments_pb2.ReportDeploymentRequest,
    deployments_pb2.ReportDeploymentResponse,
)

LIST_WEBHOOKS = Method(
    "/quickthaw.v1.Webhooks/List",
    webhooks_pb2.ListWebhooksRequest,
    webhooks_pb2.ListWebhooksResponse,
)
GET_WEBHOOK = Method(
    "/quickthaw.v1.Webhooks/Get", webhooks_pb2.GetWebhookRequest, webhooks_pb2.Webhook
)
REDELIVER = Method(
    "/quickthaw.v1.Webhooks/Redeliver", webhooks_pb2.RedeliverWebhookRequest, webhooks_pb2.Webhook
)
# Not repeatable: a second call would make a second key.
ROTATE_SIGNING_KEY = Method(
    "/quickthaw.v1.Webhooks/RotateSigningKey",
    webhooks_pb2.RotateSigningKeyRequest,
    webhooks_pb2.SigningKey,
    repeatable=False,
)
