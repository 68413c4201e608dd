"""`shepherd top`: everything that `shepherd up` runs, in one table that lives.

`reading.py` is what was measured, `rows.py` what it means, `table.py` how it looks.
"""
