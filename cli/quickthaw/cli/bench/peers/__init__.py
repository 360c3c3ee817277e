"""Other loaders, measured beside ours. `base.py` is the port, `registry.py` the list."""

from quickthaw.cli.bench.peers.base import Opened as Opened
from quickthaw.cli.bench.peers.base import Peer as Peer
from quickthaw.cli.bench.peers.base import Tensors as Tensors
