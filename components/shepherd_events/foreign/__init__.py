"""The KV event streams of other systems: read into ours, and ours written in their form."""
