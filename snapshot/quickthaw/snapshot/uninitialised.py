"""Building modules without filling their weights: both libraries' switches, used safely.

diffusers' modelling module remembers torch's initialisers when it is first imported and puts those
back after each of its own loads. Imported while they are switched off, it would switch them off for
good, and every model made from then on would start from whatever memory held. So it is imported
here, before anybody can switch anything off.
"""

from __future__ import annotations

import diffusers.models.modeling_utils as _imported_first
from transformers.initialization import no_init_weights as no_init_weights

assert _imported_first
