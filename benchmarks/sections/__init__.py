"""What `benchmarks.engine` runs: each module has `figures(rounds: int) -> list[Figure]`.

A section measures ours and its peer round by round, one after the other, so that
a busy moment of the machine meets both.
"""
