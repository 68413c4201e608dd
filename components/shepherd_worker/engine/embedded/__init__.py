"""The embedded engine: paged KV cache, prefix reuse and continuous batching of our own.

    request -> engine.py -> engine_thread.py -> core.py -> scheduler.py -> cache/
               (asyncio)    (one thread)        (steps)    (pure state)
                  |                                |
              transfer/                        runner.py  <- torch_runner.py | ../fake.py
                                                                 |
                                                   model/, sampling/, parallel/

What computes the tokens stands behind `runner.Runner`; everything else is the
same for a real model and for the fake.
"""
