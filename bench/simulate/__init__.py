"""The scheduler on virtual time: its own core, or other policies, on traffic and workers made up.

`traces` makes requests, `world` plays the workers, `policies` and `ours` place, `run` moves the
time, `outcome` counts, `report` shows. See `python -m bench.simulate --help`.
"""
