"""`quickthaw bench cold-start`: how fast models come up, beside other loaders and the hardware.

`cold_start.py` is the run from end to end, `measuring.py` the rounds, `lanes.py` and `serving.py`
the process that each loader lives in, `peers/` the other loaders, `docs/benchmarks.md` the guide.
"""
