"""The calls of a platform that no test of a gateway leads to."""

# Methods are named as on the wire, hence the exceptions from the naming rule.

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc.aio

from quickthaw.v1 import (
    billing_pb2,
    billing_pb2_grpc,
    catalog_pb2,
    catalog_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
)
from quickthaw.wire import errors

# A string: the class is generic for the type checkers only.
Context: TypeAlias = "grpc.aio.ServicerContext[object, object]"


class Unplayed(
    inference_pb2_grpc.InferenceServicer,
    catalog_pb2_grpc.CatalogServicer,
    billing_pb2_grpc.AccountsServicer,
    billing_pb2_grpc.BillingServicer,
):
    """The calls that no test of a gateway leads to."""

    async def List(self, request: object, context: Context) -> inference_pb2.ListRequestsResponse:
        raise _unplayed()

    async def Quote(self, request: object, context: Context) -> inference_pb2.QuoteResponse:
        raise _unplayed()

    def RunMany(
        self, request_iterator: object, context: Context
    ) -> AsyncIterator[inference_pb2.RunManyResponse]:
        raise _unplayed()

    async def Register(self, request: object, context: Context) -> catalog_pb2.RegisterResponse:
        raise _unplayed()

    async def Remove(self, request: object, context: Context) -> catalog_pb2.RemoveResponse:
        raise _unplayed()

    async def GetEndpoint(self, request: object, context: Context) -> catalog_pb2.Endpoint:
        raise _unplayed()

    async def SetEndpoint(self, request: object, context: Context) -> catalog_pb2.Endpoint:
        raise _unplayed()

    async def ListEndpoints(
        self, request: object, context: Context
    ) -> catalog_pb2.ListEndpointsResponse:
        raise _unplayed()

    async def ReleaseQuarantine(self, request: object, context: Context) -> catalog_pb2.Endpoint:
        raise _unplayed()

    async def ListVersions(
        self, request: object, context: Context
    ) -> catalog_pb2.ListVersionsResponse:
        raise _unplayed()

    async def Rollback(self, request: object, context: Context) -> catalog_pb2.RegisterResponse:
        raise _unplayed()

    async def ListUnusedSnapshots(
        self, request: object, context: Context
    ) -> catalog_pb2.ListUnusedSnapshotsResponse:
        raise _unplayed()

    async def CreateKey(self, request: object, context: Context) -> billing_pb2.CreateKeyResponse:
        raise _unplayed()

    async def ListKeys(self, request: object, context: Context) -> billing_pb2.ListKeysResponse:
        raise _unplayed()

    async def RotateKey(self, request: object, context: Context) -> billing_pb2.RotateKeyResponse:
        raise _unplayed()

    async def UpdateKey(self, request: object, context: Context) -> billing_pb2.UpdateKeyResponse:
        raise _unplayed()

    async def RevokeKey(self, request: object, context: Context) -> billing_pb2.RevokeKeyResponse:
        raise _unplayed()

    async def ListLedger(self, request: object, context: Context) -> billing_pb2.ListLedgerResponse:
        raise _unplayed()

    async def GetPrices(self, request: object, context: Context) -> billing_pb2.GetPricesResponse:
        raise _unplayed()

    async def GetAccount(self, request: object, context: Context) -> billing_pb2.Account:
        raise _unplayed()

    async def ListAccounts(
        self, request: object, context: Context
    ) -> billing_pb2.ListAccountsResponse:
        raise _unplayed()

    async def SetBudget(self, request: object, context: Context) -> billing_pb2.Account:
        raise _unplayed()

    async def GrantCredit(
        self, request: object, context: Context
    ) -> billing_pb2.GrantCreditResponse:
        raise _unplayed()

    async def SetLock(self, request: object, context: Context) -> billing_pb2.Account:
        raise _unplayed()

    async def ListAlerts(self, request: object, context: Context) -> billing_pb2.ListAlertsResponse:
        raise _unplayed()


def _unplayed() -> errors.QuickthawError:
    return errors.FailedPrecondition("this platform is played by a test and lacks this call")
