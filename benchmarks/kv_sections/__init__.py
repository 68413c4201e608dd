"""One module per group of figures about the KV event stream."""
