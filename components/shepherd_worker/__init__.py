"""The worker: requests become tokens, and the cache tells what it does.

Serves one model in one role on NVIDIA Dynamo's distributed runtime.
"""
