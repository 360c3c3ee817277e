"""What holds for every test."""

from hypothesis import settings

# Two cores are shared with other tests' processes: how long an example took says nothing of it.
settings.register_profile("quickthaw", deadline=None)
settings.load_profile("quickthaw")
