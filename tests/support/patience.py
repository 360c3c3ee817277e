"""How long a test waits for what has to happen."""

PATIENCE_SECONDS = 100.0
"""Far longer than anything takes here, so that only what never happens runs into it, on a machine
whose two cores have other work as well; and below the limit of a test."""
