"""Stores elsewhere: buckets, web servers, folders and other workers (docs/remote.md)."""

from quickthaw.snapshot.remote.base import Remote as Remote
from quickthaw.snapshot.remote.base import RemoteSettings as RemoteSettings
from quickthaw.snapshot.remote.opening import open_remote as open_remote
from quickthaw.snapshot.remote.opening import open_writable as open_writable
