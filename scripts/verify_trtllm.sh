#!/usr/bin/env bash
# Check TensorRT-LLM's engine on this machine, with the real wheel: the doctor, then `pytest -m trtllm`.
#
#   scripts/verify_trtllm.sh [MODEL [VISION_MODEL]]     default Qwen/Qwen3-0.6B, and no images
#
# A second GPU adds prefill/decode and attention data parallelism.
#
# Ends with 0 only when tests ran and passed: a machine without TensorRT-LLM is told so and ends with 4.
set -euo pipefail
cd "$(dirname "$0")/.."
export SHEPHERD_TRTLLM_MODEL="${1:-Qwen/Qwen3-0.6B}"
export SHEPHERD_TRTLLM_VISION_MODEL="${2:-}"
export PYTHONPATH="components${PYTHONPATH:+:$PYTHONPATH}"
python="${PYTHON:-python3}"

if ! "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("tensorrt_llm") is None)'; then
    echo "TensorRT-LLM is not installed for $python: see docs/tensorrt-llm.md" >&2
    exit 4
fi
"$python" -m shepherd_cli doctor --engine trtllm || [ $? -lt 2 ]
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
"$python" -c 'import tensorrt_llm, torch; print("TensorRT-LLM", tensorrt_llm.__version__, "torch", torch.__version__)'
exec "$python" -m pytest -m trtllm tests/gpu -rA -p no:cacheprovider
