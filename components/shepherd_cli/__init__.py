"""The `shepherd` command: the whole system on one machine."""
