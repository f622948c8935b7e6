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
    """Advisory locks on the folders of a run, so that two jobs never write into one. Gone with the process."""

    def __init__(self) -> None:
        self._descriptors: dict[Path, int] = {}

    def take(self, folder: Path, instead: str = "name another --run folder") -> None:
        """Lock ``folder``; UserError when another process has it. A file system without locks is let through."""
        if folder in self._descriptors:
            return
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{folder} is in use by another job; wait for it, or {instead}") from None
        except OSError:
            os.close(descriptor)
            return
        self._descriptors[folder] = descriptor

    def release(self) -> None:
        """Give the locks back."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])


def prepare(
    run_dir: Path, config: Config, tokenizer_model: Path, checkpoint: Path | None, copy: Path | None = None
) -> list[str]:
    """Write config and tokenizer into the run folder; what differs from the checkpoint's config, a line each.

    ``copy``: where the checkpoint's copy is, in case that its manifest is damaged. Raises UserError when the model of
    the config is not the one of the checkpoint.
    """
    changes: list[str] = []
    if checkpoint is not None:
        folders = [checkpoint] if copy is None else [checkpoint, copy]
        before, now = Manifest.first_of(folders)[0].config, config.model_dump(mode="json")
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
    keep_tokenizer(run_dir, tokenizer_model)
    with atomic_write(run_dir / "config.toml") as temporary:
        temporary.write_text(to_toml(config), encoding="utf-8")
    return changes


def keep_tokenizer(folder: Path, tokenizer_model: Path) -> None:
    """Put the tokenizer into ``folder``, unless one is there."""
    target = folder / "tokenizer" / "tokenizer.model"
    if not target.exists():
        with atomic_write(target) as temporary:
            shutil.copyfile(tokenizer_model, temporary)
