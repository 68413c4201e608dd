"""What the figures about the KV event stream are measured with."""
