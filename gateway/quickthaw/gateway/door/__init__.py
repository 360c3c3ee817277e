"""The one port: plain HTTP, TLS and CONNECT told apart, so that environment variables alone bring
clients here whose hosts and scheme are fixed in their code."""

from quickthaw.gateway.door.authority import Authority as Authority
from quickthaw.gateway.door.port import Port as Port
