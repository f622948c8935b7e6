"""torch.distributed over MPI, the mesh of ranks, and the collectives that the floors above use.

Importing this package registers the backend ``mpi4py`` with torch.distributed; nothing else is needed.
"""

from pyjpllm.distributed import mpi_backend as mpi_backend
from pyjpllm.distributed import rendezvous as rendezvous
from pyjpllm.distributed.launch import Launch, World, detect, finalize, init
from pyjpllm.distributed.mesh import AXES, Mesh, make_mesh

__all__ = ["AXES", "Launch", "Mesh", "World", "detect", "finalize", "init", "make_mesh"]
