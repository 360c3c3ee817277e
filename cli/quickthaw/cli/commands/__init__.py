"""One module for each group of commands. They import what is heavy only when they run."""
