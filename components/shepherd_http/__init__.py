"""What every HTTP door of ours has: how it listens and ends, how much it takes, how it refuses.

Knows no route and no credential.
"""
