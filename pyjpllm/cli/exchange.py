"""The exchange of a corpus job's ranks over MPI: mpi4py alone, torch.distributed is not started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pyjpllm.corpus.exchange import Alone, Exchange
from pyjpllm.launchers import detect

T = TypeVar("T")

# MPI counts in 32-bit integers, so a message stays below 2^31 bytes. Pieces need not be larger than this to be fast.
PIECE_BYTES = 1 << 28


class MPIExchange:
    """``pyjpllm.corpus.exchange.Exchange`` over a communicator of mpi4py."""

    def __init__(self, mpi: Any, communicator: Any, piece_bytes: int = PIECE_BYTES) -> None:
        """``mpi``: the module mpi4py.MPI. ``piece_bytes``: no message is longer; 1 to 2^31 - 1."""
        if not 1 <= piece_bytes < 1 << 31:
            raise ValueError(f"piece_bytes = {piece_bytes}: from 1 to 2^31 - 1")
        self._mpi = mpi
        self._communicator = communicator
        self._piece = piece_bytes
        self.rank: int = communicator.Get_rank()
        self.size: int = communicator.Get_size()

    def all_to_all(self, parts: Sequence[NDArray[Any]], /) -> list[NDArray[Any]]:
        """Pair by pair: in round k with the ranks k places on and back, so that no buffer holds all parts at once."""
        if len(parts) != self.size:
            raise ValueError(f"{len(parts)} parts for {self.size} ranks")
        dtype, tail = parts[0].dtype, parts[0].shape[1:]
        lengths = np.array([len(part) for part in parts], np.int64)
        coming = np.empty(self.size, np.int64)
        self._communicator.Alltoall(lengths, coming)
        received = [np.empty((int(length), *tail), dtype) for length in coming]
        received[self.rank] = parts[self.rank]
        for step in range(1, self.size):
            to, source = (self.rank + step) % self.size, (self.rank - step) % self.size
            self._swap(np.ascontiguousarray(parts[to]), to, received[source], source)
        return received

    def _swap(self, out: NDArray[Any], to: int, into: NDArray[Any], source: int) -> None:
        """Send ``out`` and receive ``into``, piece by piece; one side may have more pieces than the other."""
        outgoing, incoming = out.reshape(-1).view(np.uint8), into.reshape(-1).view(np.uint8)
        mpi = self._mpi
        for start in range(0, max(len(outgoing), len(incoming)), self._piece):
            sent, got = outgoing[start : start + self._piece], incoming[start : start + self._piece]
            self._communicator.Sendrecv(
                [sent, mpi.BYTE],
                dest=to if len(sent) else mpi.PROC_NULL,
                recvbuf=[got, mpi.BYTE],
                source=source if len(got) else mpi.PROC_NULL,
            )

    def all_gather(self, value: T, /) -> list[T]:
        """By pickle."""
        values: list[T] = self._communicator.allgather(value)
        return values

    def broadcast(self, value: T, /) -> T:
        """By pickle."""
        sent: T = self._communicator.bcast(value)
        return sent

    def barrier(self) -> None:
        """MPI_Barrier."""
        self._communicator.Barrier()


@contextlib.contextmanager
def exchange() -> Iterator[Exchange]:
    """The exchange of this job: over MPI under a launcher with several ranks, else ``Alone``.

    MPI ends with the block. When the block ends in an error MPI is left as it is, so that this rank's end ends the
    job, instead of waiting for the others.
    """
    found = detect()
    if found is None or found.size == 1:
        yield Alone()
        return
    from pyjpllm.distributed import runtime  # and with it torch: a second, and 200 MiB, that one process can do without

    running = runtime.start()
    communicator = running.mpi.COMM_WORLD.Dup()
    yield MPIExchange(running.mpi, communicator)
    communicator.Free()
    runtime.finalize()
