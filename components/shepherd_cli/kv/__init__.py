"""`shepherd kv`: watch, keep, play back and compare what KV caches say.

Data goes to stdout, talk to stderr.  Exit codes: `shepherd kv help exit-codes`.
"""
