"""Stores elsewhere: buckets, web servers, folders and other workers (docs/remote.md)."""

from quickthaw.snapshot.remote.base import Remote as Remote
from quickthaw.snapshot.remote.base import RemoteSettings as RemoteSettings
from quickthaw.snapshot.remote.behind import Told as Told
from quickthaw.snapshot.remote.behind import WriteBehind as WriteBehind
from quickthaw.snapshot.remote.opening import open_remote as open_remote
from quickthaw.snapshot.remote.opening import open_writable as open_writable
from quickthaw.snapshot.remote.origin import RemoteOrigin as RemoteOrigin
