"""`checkpoint.copy_to`: the folder where a run's checkpoints are kept a second time, and that no other run uses it.

COPY_TO/run.json                  whose copies these are; the run's folder has the same file
COPY_TO/tokenizer/tokenizer.model
COPY_TO/step-00001000/            a checkpoint as those of the run's folder
"""

from __future__ import annotations

import errno
import json
import os
import sys
import uuid
from pathlib import Path
from typing import NamedTuple

from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write
from pyjpllm.training.folders import checkpoints_of, complete_steps, steps_in
from pyjpllm.training.rundir import RunLock, keep_tokenizer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MARKER = "run.json"


class Owner(NamedTuple):
    """What ``run.json`` says: an identity that stays when the run's folder is moved, and where that folder was."""

    id: str
    run: str

    def text(self) -> str:
        """As it is written."""
        return json.dumps(self._asdict(), ensure_ascii=False)


class Copies:
    """The folder of ``checkpoint.copy_to``. Every rank has one; only rank 0 calls its methods.

    Args:
        lock: also held on this folder, so that two jobs whose run folders are on disks of their own do not share it.
    """

    def __init__(self, run_dir: Path, folder: Path, lock: RunLock) -> None:
        self.run_dir, self.folder, self.lock = run_dir, folder, lock
        self.claimed = False

    def open(self) -> list[str]:
        """Take the folder for this run, at its start; lines about what was found.

        Raises UserError when it belongs to another run, and when it can't be used and the run's own folder has no
        checkpoint: then the newest may be there. A run that has one does without the folder for now.
        """
        try:
            return self._claim()
        except OSError as error:
            what = f"checkpoint.copy_to = {self.folder}: {error.filename or self.folder}: {error.strerror}"
            if not complete_steps(self.run_dir):
                raise UserError(what) from error
            return [f"WARNING: {what}; each checkpoint tries it again"]

    def check(self) -> None:
        """Raise OSError or UserError unless the folder is there and this run's; put the tokenizer there.

        Where its file system is no longer mounted there is an empty folder: that one has no ``run.json``.
        """
        if not self.claimed:
            self._claim()
        there, own = _read(self.folder), _read(self.run_dir)
        if there is None:
            text = f"has no {MARKER} any more; is its file system mounted?"
            raise FileNotFoundError(errno.ENOENT, text, str(self.folder))
        if own is None or there.id != own.id:
            raise UserError(f"{self.folder} holds the copies of {there.run} now")
        keep_tokenizer(self.folder, self.run_dir / "tokenizer" / "tokenizer.model")

    def _claim(self) -> list[str]:
        here, folder = self.run_dir.resolve(), self.folder.resolve()
        field = f"checkpoint.copy_to = {self.folder}"
        if folder == here or here in folder.parents:
            raise UserError(f"{field}: is in the run's own folder {self.run_dir}; name one on another disk")
        folder.mkdir(parents=True, exist_ok=True)
        self.lock.take(folder, "name another folder as checkpoint.copy_to")
        own, there = _read(self.run_dir), _read(folder)
        if there is not None:
            same_place = Path(there.run) == here
            if own is None and not (same_place and not complete_steps(self.run_dir)):
                raise UserError(
                    f"{field}: holds the copies of the run {there.run}; name another folder, "
                    f"or copy {folder / MARKER} into {self.run_dir} if that run is to go on there"
                )
            if own is not None and own.id != there.id:
                raise UserError(f"{field}: holds the copies of another run, {there.run}; name another folder")
            first = _read(Path(there.run)) if own is not None and not same_place else None
            if first is not None and first.id == there.id:
                raise UserError(
                    f"{field}: belongs to {there.run}, of which {self.run_dir} is a duplicate; name another folder"
                )
        elif steps_in(folder):
            raise UserError(f"{field}: holds checkpoints, but no {MARKER} that says of which run; name another folder")
        mine = Owner((own or there or Owner(uuid.uuid4().hex, "")).id, str(here))
        if own != mine:
            _write(self.run_dir, mine)
        if there is None:
            _create(folder, mine)
        elif there != mine:
            _write(folder, mine)
        self.claimed = True
        return [f"checkpoints are also kept in {self.folder}, from now on"] if there is None else []

    def lacks(self, checkpoint: Path | None) -> bool:
        """Whether ``checkpoint`` is one of the run's own folder that has no copy here."""
        if checkpoint is None or checkpoint.parent != checkpoints_of(self.run_dir) or not self.claimed:
            return False
        return int(checkpoint.name.removeprefix("step-")) not in steps_in(self.folder)


def copies_of(run_dir: Path) -> Path | None:
    """Where the checkpoints of a run are kept a second time, as its ``config.toml`` says; None where nowhere."""
    path = run_dir / "config.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} can't be read: {error}") from error
    section = table.get("checkpoint", {})
    named = section.get("copy_to", "") if isinstance(section, dict) else ""
    return Path(named) if named else None


def copy_of(checkpoint: Path, copies: Path | None) -> Path | None:
    """Where the copy of a run's checkpoint would be; None where there is no such folder, or it is that one."""
    if copies is None or checkpoint.parent == copies or not (copies / checkpoint.name).is_dir():
        return None
    return copies / checkpoint.name


def _read(folder: Path) -> Owner | None:
    path = folder / MARKER
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return Owner(str(table["id"]), str(table["run"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} does not say whose copies these are; remove it if they are this run's") from error


def _write(folder: Path, owner: Owner) -> None:
    with atomic_write(folder / MARKER) as temporary:
        temporary.write_text(owner.text(), encoding="utf-8")


def _create(folder: Path, owner: Owner) -> None:
    """Write it where none is: of two runs that come here at once, one is refused."""
    try:
        descriptor = os.open(folder / MARKER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        raise UserError(f"checkpoint.copy_to = {folder}: another run has just taken it; name another folder") from None
    try:
        os.write(descriptor, owner.text().encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
