"""TensorRT-LLM behind the `Engine` protocol; nothing outside this package imports it.

    engine.py        the `Engine`: its life, and who is served
    options.py       what can be said to it alone
    library.py       what the installed version has, found out by looking
    model.py         what a model's directory says before it is loaded
    construction.py  options -> the arguments of its `LLM`
    started.py       what exists once it has loaded the model, and its first token

    submission.py    a request -> its call of `generate_async`
    sampling.py      a request -> its sampling parameters
    logits.py        our logits processors, in its process
    images.py        a request's pictures -> its multimodal inputs
    encoder.py       its encoder of pictures, for a worker of its own
    call.py          that call, from submission to its end
    answer.py        its growing outputs -> our chunks
    handoff.py       its disaggregated parameters <-> our handoff
    leases.py        handoffs that wait to be fetched

    poller.py        the thread that takes its events and statistics
    kv_events.py     its cache events, read and checked for gaps
    tracks.py        requests as the cache sees them: whose blocks are whose
    ranks.py         the ledgers of all attention ranks, and whose blocks are on which
    ledger.py        a rank's blocks -> our cache events
    stats.py         its iteration statistics -> ours
    metrics.py       its Prometheus metrics, and how well its events arrive
    blocking.py      calls that may never return
    shutdown.py      its end, which keeps no process from ending

Their order is that of a request, and then that of what the cache says of it.
"""
