"""`jpllm bench kernels`: every operation beside torch, as a share of what the machine can do."""
