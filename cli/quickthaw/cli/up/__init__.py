"""`quickthaw up`: every part of the platform on this machine, kept alive by one process."""
