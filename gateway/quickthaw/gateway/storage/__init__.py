"""Files that callers bring: kept in the blob store, named by unguessable ids, gone when they
expire."""

from quickthaw.gateway.storage.blobs import Blobs, open_blobs
from quickthaw.gateway.storage.expiry import Expiry, sweeping
from quickthaw.gateway.storage.refusals import QuotaExceeded, UploadRefused
from quickthaw.gateway.storage.uploads import StoredFile, Ticket, Uploads, no_such_file
from quickthaw.gateway.storage.weights_store import WeightsStore

__all__ = [
    "Blobs",
    "Expiry",
    "QuotaExceeded",
    "StoredFile",
    "Ticket",
    "UploadRefused",
    "Uploads",
    "WeightsStore",
    "no_such_file",
    "open_blobs",
    "sweeping",
]
