"""What holds for every test."""

from importlib.util import find_spec

# Tests of a GPU need nothing of it, and run on machines that have little installed.
if find_spec("hypothesis") is not None:
    from hypothesis import settings

    # Two cores are shared with other tests' processes: how long an example took says nothing of it.
    settings.register_profile("quickthaw", deadline=None)
    settings.load_profile("quickthaw")
