"""Keeps the processes of one machine running, ends them in order, and writes one log.

`decisions.py` decides and touches nothing; the rest does what it says.
"""
