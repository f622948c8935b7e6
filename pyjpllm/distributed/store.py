"""A torch Store that is a file, and that only once somebody uses it: no TCP port, and normally no file either.

The mpi4py backend needs no store at all, but torch wants one; gloo, and torch's store-based barrier, do use it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

from torch._C._distributed_c10d import FileStore, Store


class LazyFileStore(Store):
    """``torch.distributed.FileStore`` on ``path`` shared by ``world_size`` processes, opened at the first use.

    The last process to close a FileStore removes the file; ``remove`` does it for a job that ended badly.
    """

    # torch's PrefixStore keeps the C++ half of a Python Store only; without the Python half its methods are gone.
    alive: ClassVar[list[LazyFileStore]] = []

    def __init__(self, path: str | os.PathLike[str], world_size: int) -> None:
        super().__init__()
        self.path = Path(path)
        self.world_size = world_size
        self._lock = threading.Lock()
        self._opened: Store | None = None
        self._timeout = datetime.timedelta(seconds=1800)
        self.alive.append(self)

    @property
    def used(self) -> bool:
        """Whether the file has been opened."""
        return self._opened is not None

    def _file(self) -> Any:
        with self._lock:
            if self._opened is None:
                self._opened = FileStore(str(self.path), self.world_size)
                self._opened.set_timeout(self._timeout)
            return self._opened

    # The names are those that torch's C++ side looks up in a Python Store; values are bytes.

    def set(self, key: str, value: bytes | str) -> None:
        self._file().set(key, value)

    def get(self, key: str) -> bytes:
        value: bytes = self._file().get(key)
        return value

    def add(self, key: str, value: int) -> int:
        return self._file().add(key, value)  # type: ignore[no-any-return]

    def check(self, keys: list[str]) -> bool:
        return self._file().check(keys)  # type: ignore[no-any-return]

    def wait(self, keys: list[str], timeout: datetime.timedelta | None = None) -> None:
        self._file().wait(keys, self._timeout if timeout is None else timeout)

    def compare_set(self, key: str, expected: bytes | str, desired: bytes | str) -> bytes:
        return self._file().compare_set(key, expected, desired)  # type: ignore[no-any-return]

    def deleteKey(self, key: str) -> bool:
        return self._file().delete_key(key)  # type: ignore[no-any-return]

    def getNumKeys(self) -> int:
        return self._file().num_keys()  # type: ignore[no-any-return]

    def has_extended_api(self) -> bool:
        return False

    def clone(self) -> LazyFileStore:
        return self

    def set_timeout(self, timeout: datetime.timedelta) -> None:
        self._timeout = timeout
        if self._opened is not None:
            self._opened.set_timeout(timeout)

    def remove(self) -> None:
        """Remove the file if this process has used it (for a job that is ending badly)."""
        if self._opened is not None:
            with contextlib.suppress(OSError):
                self.path.unlink()
