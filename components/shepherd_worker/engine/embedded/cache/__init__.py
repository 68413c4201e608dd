"""Which KV block holds what, what is forgotten next, and where it goes instead."""
