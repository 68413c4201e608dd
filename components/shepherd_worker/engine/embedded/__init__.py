"""The embedded engine: paged KV cache, prefix reuse and continuous batching of our own.

    request -> engine.py -> engine_thread.py -> core.py -> scheduler.py, block_pool.py
               (asyncio)    (one thread)        (steps)    (pure state)
                                                   |
                                                runner.py  <- torch_runner.py | ../fake.py

What computes the tokens stands behind `runner.Runner`; everything else is the
same for a real model and for the fake.
"""
