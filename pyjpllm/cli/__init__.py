"""The command `jpllm`: one file a subcommand, loaded when it is called."""

from pyjpllm.cli.app import main

__all__ = ["main"]
