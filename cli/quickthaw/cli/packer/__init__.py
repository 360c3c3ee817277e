"""The packer: makes snapshots of what tenants upload, tries them, hands them in."""
