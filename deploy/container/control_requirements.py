"""Prints what an installed Quickthaw needs where no model runs, for `pip install -r`."""

from __future__ import annotations

import re
from importlib.metadata import requires

OF_WORKERS = {"diffusers", "peft", "safetensors", "torch", "transformers"}
EXTRAS = {"postgres"}

for requirement in requires("quickthaw") or ():
    package, _, marker = requirement.partition(";")
    name = re.split(r"[^A-Za-z0-9._-]", package, maxsplit=1)[0]
    extra = re.search(r"extra == ['\"](.+?)['\"]", marker)
    if name not in OF_WORKERS and (extra is None or extra[1] in EXTRAS):
        print(package.strip())
