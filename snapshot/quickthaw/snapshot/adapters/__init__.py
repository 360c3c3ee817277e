"""LoRA adapters: packed as small components, laid over shared modules only while a run lasts."""

from quickthaw.snapshot.adapters.loose import LooseAdapter as LooseAdapter
from quickthaw.snapshot.adapters.loose import read_loose as read_loose
from quickthaw.snapshot.adapters.loose import targets as targets
from quickthaw.snapshot.adapters.loose import unpacked as unpacked
from quickthaw.snapshot.adapters.overlay import Bound as Bound
from quickthaw.snapshot.adapters.overlay import LayerWeights as LayerWeights
from quickthaw.snapshot.adapters.overlay import Overlay as Overlay
from quickthaw.snapshot.adapters.overlay import bind as bind
from quickthaw.snapshot.adapters.overlay import overlay_of as overlay_of
