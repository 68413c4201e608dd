"""What stands behind the fake `tensorrt_llm` package: an engine of ours, dressed as another's."""
