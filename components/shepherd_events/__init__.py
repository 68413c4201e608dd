"""The contract between workers and everybody who listens to them.

Frozen dataclasses (`events`), their bytes (`codec`), the one block hash
(`block_hash`), and both ends of the stream (`publisher`, `subscriber`).
Imports nothing of the other components.
"""
