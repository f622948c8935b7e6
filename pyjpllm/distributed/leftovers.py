"""Shared-memory files that Open MPI leaves behind when its launcher is killed: 16 MB a rank in /dev/shm.

A launcher that lives removes them itself. ``sweep`` looks for those of jobs that are dead, at the start of the next
job; ``remove_own`` removes those of this job, by a rank that finds its launcher gone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

SHM = Path("/dev/shm")
# Open MPI 5 and 4: sm_segment.HOST.UID.JOB.RANK and vader_segment.HOST.UID.JOB.RANK.
_NAME = re.compile(r"(?:sm|vader)_segment\.(?P<host>.+)\.(?P<uid>\d+)\.[0-9a-f]+\.\d+")
# A file this young may belong to a job that is starting and has not mapped it yet.
_YOUNG_S = 60.0


def sweep(folder: Path = SHM, older_than_s: float = _YOUNG_S) -> list[Path]:
    """Remove this user's segments that no process maps any more; returns what was removed."""
    removed: list[Path] = []
    host, uid = os.uname().nodename.split(".")[0], os.getuid()
    candidates: list[Path] = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            match = _NAME.fullmatch(path.name)
            if match is None or match["host"].split(".")[0] != host or int(match["uid"]) != uid:
                continue
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > older_than_s:
                    candidates.append(path)
    if not candidates:
        return removed
    in_use = _mapped_by_anyone(folder)
    for path in candidates:
        if str(path) not in in_use:
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
    return removed


def remove_own() -> None:
    """Remove the segments that this process maps, and the session folder of its dead launcher."""
    for name in _mapped(os.getpid(), SHM):
        if _NAME.fullmatch(Path(name).name):
            with contextlib.suppress(OSError):
                os.unlink(name)
    session = os.environ.get("PMIX_SERVER_TMPDIR", "")
    if re.fullmatch(r"ompi\.\d+", Path(session).name):
        shutil.rmtree(session, ignore_errors=True)


def _mapped_by_anyone(folder: Path) -> set[str]:
    names: set[str] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            names |= _mapped(int(entry.name), folder)
    return names


def _mapped(pid: int, folder: Path) -> set[str]:
    """Files under ``folder`` that ``pid`` maps; nothing for a process we may not look at."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return set()
    return {
        parts[5] for line in lines if len(parts := line.split(maxsplit=5)) == 6 and parts[5].startswith(f"{folder}/")
    }
