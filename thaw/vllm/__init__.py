"""thaw inside vLLM. Users import `thaw_vllm`, a face of `engine`."""
