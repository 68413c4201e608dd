"""Logits processors: code of the operator's that changes what a model says next.

A processor is a callable `(input_ids, logits) -> None` that changes one row of
logits in place, in the shape of Dynamo's `BaseLogitsProcessor`.  The operator
loads factories of them by name (`--logits-processor`); a request names the ones it
wants and their arguments, and can name no others.

    registry.py            names to factories, and what a request asks of them
    processor_thread.py    where a request's processors run: apart from the engine
"""

from shepherd_worker.logits_processing.protocol import LogitsProcessor

__all__ = ["LogitsProcessor"]
