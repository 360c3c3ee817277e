"""The `quickthaw` command. It imports nothing here, so that `--help` stays quick."""
