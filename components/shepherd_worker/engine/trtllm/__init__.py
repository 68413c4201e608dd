"""TensorRT-LLM behind the `Engine` protocol; nothing outside this package imports it.

options.py       what can be said to it, beside the options that all engines share
library.py       what the installed version has, found out by looking
construction.py  options -> the arguments of its `LLM`
sampling.py      a request -> its sampling parameters
answer.py        its growing outputs -> our chunks
handoff.py       its disaggregated parameters <-> our handoff
kv_events.py     its cache events, read and checked for gaps
ledger.py        its blocks and ours: canonical hashes, origins, ends of sequences
poller.py        the thread that takes events and statistics
stats.py         its iteration statistics -> ours
engine.py        the `Engine`
"""
