"""`jpllm`: finds the subcommand, loads only its file, runs it, and turns what went wrong into lines and an exit code.

A module of ``pyjpllm.cli`` is a subcommand of its name: either it has a function ``command`` with typer's annotations,
or a ``typer.Typer`` named ``app`` whose commands are `jpllm NAME COMMAND`. Modules import torch and the rooms below
inside their functions, so that help is quick.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer

from pyjpllm.cli.exits import FAILED, INTERRUPTED, USER, debugging, report
from pyjpllm.errors import nearest

# Name -> what `jpllm --help` says about it.
COMMANDS: dict[str, str] = {
    "corpus": "From crawled pages to clean text: read, filter, deduplicate.",
    "tokenizer": "Train a tokenizer; encode text into token files.",
    "train": "Train a model as a config file says; resume by itself.",
    "generate": "Continue a text with a trained model.",
    "evaluate": "Held-out loss and bits per byte of a model.",
    "convert": "To and from Hugging Face folders.",
    "plan": "What a layout will do, before it runs.",
    "report": "One HTML page about a run.",
    "bench": "Measure this machine.",
    "doctor": "What this machine has, and what is wrong with it.",
}

_EPILOG = "Example: jpllm train config.toml train.steps=1000 --run runs/first"


def build(argv: Sequence[str]) -> typer.Typer:
    """The app with the subcommand that ``argv`` calls loaded, and only the names of the others."""
    wanted = next((word for word in argv if not word.startswith("-")), None)
    app = typer.Typer(
        name="jpllm",
        help="Pretrain, continue and evaluate Japanese language models on CPU supercomputers, MPI clusters and GPUs.",
        epilog=_EPILOG,
        no_args_is_help=False,
        add_completion=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True, epilog=_EPILOG)(_root)
    for name, about in COMMANDS.items():
        if name == wanted:
            _load(app, name)
        else:
            app.command(name, help=about)(_not_loaded)
    return app


def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
    debug: bool = typer.Option(False, "--debug", help="Show a traceback for every error (or set JPLLM_DEBUG=1)."),
) -> None:
    if debug:
        os.environ["JPLLM_DEBUG"] = "1"
    if version:
        from pyjpllm import __version__

        typer.echo(f"jpllm {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def _not_loaded() -> None:
    raise AssertionError("a subcommand that was not named cannot be called")


def _load(app: typer.Typer, name: str) -> None:
    module = importlib.import_module(f"pyjpllm.cli.{name}")
    group: typer.Typer | None = getattr(module, "app", None)
    if group is not None:
        app.add_typer(group, name=name, short_help=COMMANDS[name])
        return
    function: Callable[..., Any] = module.command
    app.command(name, short_help=COMMANDS[name], epilog=getattr(module, "EXAMPLE", None))(function)


def main(argv: Sequence[str] | None = None) -> None:
    """Run `jpllm` with ``argv`` (the process's own by default) and leave with its exit code.

    0: done. 2: a mistake of the user's, one line each on stderr. 130: interrupted. 1: anything else.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    code = run(words)
    try:
        if sys.stdout is not None:  # `jpllm ... >&-`
            sys.stdout.flush()
    except OSError as error:
        _silence_stdout()
        if not isinstance(error, BrokenPipeError):
            code = code or FAILED
    sys.exit(code)


def run(words: Sequence[str]) -> int:
    """As ``main``, with the exit code given back."""
    completing = "_JPLLM_COMPLETE" in os.environ
    seen = os.environ.get("COMP_WORDS", "").split()[1:] if completing else words
    unknown = _unknown_command(seen)
    if unknown is not None and not completing:
        print(unknown, file=sys.stderr)
        return USER
    try:
        app = build(seen)
        result = app(args=list(words), prog_name="jpllm", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output is gone, as with `| head`
        _silence_stdout()
        return 0
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # typer has met it first
            _silence_stdout()
            return 0
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException as error:
        if debugging():
            traceback.print_exc()
        return report(error, words)


def _unknown_command(words: Sequence[str]) -> str | None:
    word = next((word for word in words if not word.startswith("-")), None)
    if word is None or word in COMMANDS:
        return None
    match = nearest(word.lower(), COMMANDS)
    hint = f"did you mean 'jpllm {match}'?" if match is not None else f"there are {', '.join(COMMANDS)}"
    return f"jpllm: no command {word!r}; {hint}"


def _silence_stdout() -> None:
    """Point stdout at /dev/null, so that the interpreter's last flush has nothing to complain about."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, sys.stdout.fileno())
    os.close(descriptor)
