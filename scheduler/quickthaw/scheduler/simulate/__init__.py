"""The scheduler on virtual time: its own core, or other policies, on traffic and workers made up.

`traces` makes requests or `requestlog` reads them, `kinds` and `calibration` say what GPUs are
like, `world` plays the workers, `policies` and `ours` place through `port`, `run` moves the time,
`outcome` counts, `study` asks. `quickthaw bench simulate` shows it.
"""
