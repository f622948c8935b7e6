"""Text corpora: documents in and out."""

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.inputs import expand_inputs
from pyjpllm.corpus.readers import read_documents
from pyjpllm.corpus.writers import DocumentWriter

__all__ = ["Document", "DocumentWriter", "expand_inputs", "read_documents"]
