"""pyjpllm: pretrain, continue and evaluate Japanese language models on CPU supercomputers, MPI clusters and GPUs."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pyjpllm")
except PackageNotFoundError:  # a source tree on the path that was never installed
    __version__ = "0+source"
