"""`jpllm train CONFIG [section.key=value ...] --run DIR`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyjpllm.cli.exits import FAILED, say_once, work_starts
from pyjpllm.errors import UserError

if TYPE_CHECKING:
    from pyjpllm.config import Config

EXAMPLE = "Example: mpirun -n 4 jpllm train config.toml parallel.tensor=2 train.steps=2000 --run runs/first"


def command(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="The config, a TOML file.", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="SECTION.KEY=VALUE", help="Fields to set over the file's.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", help="The run's folder; resumed when it holds a checkpoint.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the config and its files, and train nothing.")] = False,
    ranks: Annotated[
        int | None, typer.Option("--ranks", min=1, help="With --check: for a job of this many ranks.")
    ] = None,
    presets: Annotated[bool, typer.Option("--presets", help="List the model presets.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --presets or --check: answer in JSON.")] = False,
) -> None:
    """Train a model as CONFIG says, on this process or, under mpirun or srun, on all ranks of the job."""
    if presets:
        _print_presets(as_json)
        return
    if config is None:
        raise UserError("jpllm train needs a config file, as in 'jpllm train config.toml --run runs/first'")
    if ranks is not None and not check:
        raise UserError("--ranks goes with --check; to train on more ranks start 'mpirun -n N jpllm train ...'")
    if run is None and not check:
        raise UserError(f"--run is missing: the run's folder, as in 'jpllm train {config} --run runs/{config.stem}'")
    if run is not None and run.exists() and not run.is_dir():
        raise UserError(f"--run {run} is a file; name a folder")
    resolved = load(config, overrides or ())
    if check:
        _check_only(resolved, config, ranks, as_json)
        return
    assert run is not None
    _train(resolved, config, run)


def _train(config: Config, path: Path, run: Path) -> None:
    from pyjpllm.config import check_config
    from pyjpllm.distributed import detect

    launch = detect()
    known = 1 if launch is None else launch.size  # 0: only MPI itself can tell, and the trainer asks it
    check_config(config, known or config.parallel.fewest_ranks, source=path)
    from pyjpllm.training.checkpoint import SaveError
    from pyjpllm.training.faults import TrainingError
    from pyjpllm.training.trainer import train

    work_starts()
    try:
        result = train(config, run)
    except (TrainingError, SaveError) as error:
        say_once([f"jpllm: {error}"])
        raise typer.Exit(FAILED) from None
    if launch is None or launch.rank == 0:
        typer.echo(f"{run}: {result.exit_reason}")
    if not result.finished:
        raise typer.Exit(FAILED)


def load(path: Path, overrides: list[str] | tuple[str, ...]) -> Config:
    """``load_config`` with sizes from Hugging Face folders."""
    from pyjpllm.config import load_config

    return load_config(path, overrides, read_pretrained=_read_pretrained)


def _read_pretrained(folder: Path) -> Mapping[str, Any]:
    from pyjpllm.model.huggingface import load_config

    return load_config(folder).model_dump(exclude_none=True)


def _check_only(config: Config, path: Path, ranks: int | None, as_json: bool) -> None:
    from pyjpllm.config import check_config, to_toml

    size = ranks or config.parallel.fewest_ranks
    check_config(config, size, source=path, machine=False)
    if as_json:
        typer.echo(json.dumps({"ok": True, "ranks": size, "config": config.model_dump()}, ensure_ascii=False))
        return
    typer.echo(to_toml(config))
    typer.echo(f"# {path}: ready for {size} rank{'s' * (size > 1)}")


def _print_presets(as_json: bool) -> None:
    from pyjpllm.config import PRESETS

    if as_json:
        typer.echo(json.dumps(PRESETS))
        return
    columns = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size")
    typer.echo(f"{'preset':<8}" + "".join(f"{name:>{len(name) + 2}}" for name in columns) + "  parameters")
    for name, sizes in PRESETS.items():
        row = "".join(f"{sizes[column]:>{len(column) + 2}}" for column in columns)
        typer.echo(f"{name:<8}{row}  {_block_parameters(sizes) / 1e6:>9,.1f}M")
    typer.echo("(parameters without the embedding)")


def _block_parameters(sizes: Mapping[str, Any]) -> int:
    width, heads, kv_heads, head_dim = (sizes[k] for k in ("hidden_size", "num_heads", "num_kv_heads", "head_dim"))
    attention = width * head_dim * (2 * heads + 2 * kv_heads)
    block = attention + 3 * width * sizes["intermediate_size"] + 2 * width
    return int(sizes["num_layers"] * block + width)
