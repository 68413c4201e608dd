"""Publishers, a broker, wires and readers as real processes, and everything that can happen to them.

    python -m soak --minutes 30             (with tests/ on the path; or: make soak MINUTES=30)

Chance decides who is killed, frozen, cut off, flooded and lied to, from a seed
that is printed and may be given again.  Meanwhile every reader is asked, twice a
second, where it stands and what it holds: that must be exactly what its
publisher held there.  After each round everything heals, and everybody must
come to hold what the publishers hold.
"""
