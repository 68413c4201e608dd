"""Where the connector's base classes were until 1.2."""

from trtllm_backend.connector import *  # noqa: F403
from trtllm_backend.variants import VARIANT

if VARIANT.snapshot != "1.2":
    raise ModuleNotFoundError(f"No module named {__name__!r}", name=__name__)
