"""The run folder: made, locked and described by rank 0 before anything starts."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from pyjpllm.config import to_toml
from pyjpllm.config.schema import Config
from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write
from pyjpllm.training.manifest import Manifest

# Fields that may not change between two starts of a run: the weights would no longer fit, or mean something else.
FIXED = {
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "tie_embeddings",
    "qkv_bias",
    "out_bias",
    "mlp_bias",
    "qk_norm",
}


class RunLock:
    """An advisory lock on a run folder, so that two jobs never write into one. Gone with the process."""

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def take(self, run_dir: Path) -> None:
        """Lock ``run_dir``; UserError when another process has it. A file system without locks is let through."""
        descriptor = os.open(run_dir / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{run_dir} is in use by another job; wait for it, or name another --run folder") from None
        except OSError:
            os.close(descriptor)
            return
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def prepare(run_dir: Path, config: Config, tokenizer_model: Path, checkpoint: Path | None) -> list[str]:
    """Write config and tokenizer into the run folder; what differs from the checkpoint's config, a line each.

    Raises UserError when the model of the config is not the one of the checkpoint.
    """
    changes: list[str] = []
    if checkpoint is not None:
        before, now = Manifest.read(checkpoint).config, config.model_dump(mode="json")
        for section, fields in now.items():
            for key, value in fields.items():
                old = before.get(section, {}).get(key, value)
                if old == value or section in ("log", "checkpoint", "parallel"):
                    continue
                if section == "model" and key in FIXED:
                    raise UserError(
                        f"model.{key} is {value}, but {checkpoint} was written with {old}; "
                        f"write {old}, or name another --run folder"
                    )
                changes.append(f"{section}.{key} was {old} and is now {value}")
    target = run_dir / "tokenizer" / "tokenizer.model"
    if not target.exists():
        with atomic_write(target) as temporary:
            shutil.copyfile(tokenizer_model, temporary)
    with atomic_write(run_dir / "config.toml") as temporary:
        temporary.write_text(to_toml(config), encoding="utf-8")
    return changes
