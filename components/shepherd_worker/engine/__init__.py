"""Engines: what turns token ids into token ids and keeps a paged KV cache."""
