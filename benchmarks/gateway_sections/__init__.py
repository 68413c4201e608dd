"""One module per group of figures about the gateway."""
