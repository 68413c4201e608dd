"""The LLM API's public names."""

from trtllm_backend.retention import KvCacheRetentionConfig
from trtllm_backend.schema import dataclass_of
from trtllm_backend.variants import VARIANT

from tensorrt_llm.disaggregated_params import DisaggregatedParams
from tensorrt_llm.executor.result import CompletionOutput, RequestOutput
from tensorrt_llm.executor.utils import RequestError
from tensorrt_llm.llmapi.llm import LLM, MultimodalEncoder
from tensorrt_llm.llmapi.llm_args import (
    CacheTransceiverConfig,
    CapacitySchedulerPolicy,
    DynamicBatchConfig,
    KvCacheConfig,
    NGramDecodingConfig,
    SchedulerConfig,
)
from tensorrt_llm.sampling_params import GuidedDecodingParams, SamplingParams

__all__ = [
    "LLM",
    "CacheTransceiverConfig",
    "CapacitySchedulerPolicy",
    "CompletionOutput",
    "DisaggregatedParams",
    "DynamicBatchConfig",
    "GuidedDecodingParams",
    "KvCacheConfig",
    "KvCacheRetentionConfig",
    "MultimodalEncoder",
    "NGramDecodingConfig",
    "RequestError",
    "RequestOutput",
    "SamplingParams",
    "SchedulerConfig",
]

if VARIANT.has_build_config:

    class BuildConfig:
        """Sizes of an engine that is built ahead."""

        max_batch_size = 2048
        max_num_tokens = 8192
        max_seq_len = None
        max_beam_width = 1

    __all__ += ["BuildConfig"]

if VARIANT.has({"since": ">rc20"}):
    ConversationParams = dataclass_of("ConversationParams", __name__)
    __all__ += ["ConversationParams"]
