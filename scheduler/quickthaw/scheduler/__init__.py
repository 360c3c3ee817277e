"""The scheduler: a pure core that decides (`core`), and around it a shell that stores and talks."""
