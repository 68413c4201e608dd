"""`docs/configuration.md`, made from what the processes and commands declare."""
