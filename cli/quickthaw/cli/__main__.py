"""`python -m quickthaw.cli` is `quickthaw`."""

from quickthaw.cli.main import main

main()
