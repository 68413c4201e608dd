"""The connector's base classes."""

from trtllm_backend.connector import *  # noqa: F403
from trtllm_backend.variants import VARIANT

if VARIANT.snapshot == "1.2":
    raise ModuleNotFoundError(f"No module named {__name__!r}", name=__name__)
