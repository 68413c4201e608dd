"""One module per group of figures about the memory service."""
