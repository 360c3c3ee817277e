"""LoRA adapters: packed as small components, laid over shared modules only while a run lasts."""

from quickthaw.snapshot.adapters.overlay import Overlay as Overlay
from quickthaw.snapshot.adapters.overlay import bind as bind
from quickthaw.snapshot.adapters.overlay import overlay_of as overlay_of
