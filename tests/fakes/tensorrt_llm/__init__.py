"""A stand-in for TensorRT-LLM with its module paths, names, signatures and mutability.

Names come from `tests/golden/trtllm_api.json`; answers from `trtllm_backend`.
"""

from trtllm_backend.variants import VARIANT

from tensorrt_llm.llmapi.llm import LLM, MultimodalEncoder
from tensorrt_llm.sampling_params import SamplingParams

__version__ = VARIANT.version

__all__ = ["LLM", "MultimodalEncoder", "SamplingParams", "__version__"]
