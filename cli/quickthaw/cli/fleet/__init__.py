"""Where worker processes come from: this machine, or a Ray cluster."""

from quickthaw.cli.fleet.provisioner import (
    Exited,
    InstanceChange,
    Offer,
    Provisioner,
    Ready,
    WorkerSpec,
)

__all__ = ["Exited", "InstanceChange", "Offer", "Provisioner", "Ready", "WorkerSpec"]
