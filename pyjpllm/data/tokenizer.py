"""The tokenizer: a sentencepiece model, its special ids, and the exact text behind each id.

Text is normalised with NFKC first when the model was trained so. Encoding loses nothing else: `decode(encode(text))`
is `normalize(text)`, white space and control characters included. One character is not kept: U+2581 (a block element
that sentencepiece writes for a space) comes back as a space.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from pyjpllm.corpus.unicode import normalize
from pyjpllm.data import spm_proto
from pyjpllm.errors import UserError, nearest
from pyjpllm.files import atomic_write

FILE_NAME = "tokenizer.model"
SPACE = "\u2581"
NFKC = "nfkc"
# A longer text is encoded in pieces cut at line ends: scores summed in FP32 stay exact, and memory stays small.
_PIECE = 16384


class Tokenizer:
    """A loaded sentencepiece model. Make one with ``Tokenizer.load``."""

    def __init__(self, model: bytes, path: Path) -> None:
        """``model``: the content of ``path``. Raises UserError when it is no sentencepiece model."""
        self.model_path = path
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self.info = spm_proto.read_model(model)
            self._processor.LoadFromSerializedProto(model)
        except (ValueError, IndexError, RuntimeError, UnicodeDecodeError):
            raise UserError(f"{path}: not a sentencepiece model") from None
        self.fingerprint: str = hashlib.sha256(model).hexdigest()
        self.vocab_size: int = len(self.info.pieces)
        self.unk_id: int = self._processor.unk_id()
        self.eos_id: int = self._processor.eos_id()
        self.pad_id: int = self._processor.pad_id()
        own = self._processor.bos_id()
        self.bos_id: int = own if own >= 0 else self.eos_id
        """The token a document begins after. Our own models have none of its own: it is ``eos_id``."""
        if self.eos_id < 0:
            raise UserError(f"{path}: the model has no end-of-sentence piece, which ends a document here")
        # sentencepiece's table of NFKC leaves some sequences of marks as they are. Other tables, such as its default's,
        # which keeps ～, are left to it alone.
        self._nfkc = self.info.normalizer == NFKC
        # A line end is always a token by itself where the model knows it as a piece.
        self._newline = self._processor.piece_to_id("\n")
        self._splits = (
            self._newline != self.unk_id
            and sum("\n" in piece.text for piece in self.info.pieces) == 1
            and not (self.info.add_dummy_prefix or self.info.remove_extra_whitespaces)  # at the ends of each piece
        )

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Load ``tokenizer.model`` out of a folder, or that file. Raises UserError when there is none."""
        given = Path(path)
        file = given / FILE_NAME if given.is_dir() else given
        if not file.is_file():
            folder = file.parent
            if not folder.is_dir():
                raise UserError(f"{given}: no such tokenizer; the folder {str(folder)!r} does not exist")
            match = nearest(file.name, sorted(entry.name for entry in folder.iterdir()))
            raise UserError(
                f"{file}: no such tokenizer" + (f"; did you mean {str(folder / match)!r}?" if match else "")
            )
        return cls(file.read_bytes(), file)

    def normalize(self, text: str) -> str:
        """The text as it is after ``decode(encode(text))``."""
        if self._nfkc:
            text = normalize("NFKC", text)
        return str(self._processor.Normalize(text)).replace(SPACE, " ")

    def encode(self, text: str) -> list[int]:
        """Token ids of ``text``; no special tokens are added, and none are recognised in it.

        Raises ValueError for a lone surrogate, which no UTF-8 text holds.
        """
        if self._nfkc:
            text = normalize("NFKC", text)
        try:
            if len(text) <= _PIECE or not self._splits:
                return list(self._processor.EncodeAsIds(text))
            ids: list[int] = []
            for piece in _pieces(text):
                ids += self._processor.EncodeAsIds(piece)
        except (RuntimeError, TypeError):
            text.encode()  # says which character is no text
            raise
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text behind ``ids``; special tokens have none. Raises ValueError for an id outside the vocabulary."""
        plain = [int(i) for i in ids]
        wrong = [i for i in plain if not 0 <= i < self.vocab_size]
        if wrong:
            raise ValueError(f"token id {wrong[0]} is outside the vocabulary of {self.vocab_size}")
        return str(self._processor.DecodeIds(plain))

    def continuation(self, before: Sequence[int], ids: Sequence[int]) -> str:
        """The text that ``ids`` add behind ``before``: of models that put a space before a text, ``decode`` takes that
        of the first id away, which here is one of the text. Where ``before`` ends inside a character: ``ids`` alone."""
        head, whole = self.decode(before), self.decode([*before, *ids])
        return whole[len(head) :] if whole.startswith(head) else self.decode(ids)

    def piece(self, token: int) -> str:
        """The vocabulary's entry for an id (with U+2581 for spaces), as text."""
        return self.info.pieces[token].text

    def token_bytes(self) -> NDArray[np.int64]:
        """UTF-8 bytes of text behind each id, int64 [vocab_size]: 0 for special tokens, 1 for byte pieces.

        The sum over the ids of a text is the size of that (normalised) text: what bits per byte are counted by.
        """
        sizes = np.zeros(self.vocab_size, np.int64)
        for token, piece in enumerate(self.info.pieces):
            if piece.type == spm_proto.BYTE:
                sizes[token] = 1
            elif piece.type not in (spm_proto.CONTROL, spm_proto.UNKNOWN):
                sizes[token] = len(piece.text.replace(SPACE, " ").encode())
        return sizes

    def save(self, folder: str | Path) -> Path:
        """Copy the model into ``folder`` as ``tokenizer.model``; returns that file."""
        target = Path(folder) / FILE_NAME
        with atomic_write(target) as temporary:
            shutil.copyfile(self.model_path, temporary)
        return target

    def save_hf(self, folder: str | Path) -> None:
        """Write what ``transformers.AutoTokenizer`` loads, with the same ids; ``tokenizer.model`` goes beside it.

        Raises UserError when ``tokenizers`` is not installed, or the model is of a kind that it cannot express.
        """
        from pyjpllm.data.tokenizer_hf import write_hf

        write_hf(self, Path(folder))


def _pieces(text: str) -> list[str]:
    """``text`` cut after line ends into pieces of at most _PIECE characters, where its lines allow it."""
    pieces: list[str] = []
    start = 0
    while len(text) - start > _PIECE:
        at = text.rfind("\n", start, start + _PIECE)
        if at < 0:
            at = text.find("\n", start + _PIECE)
        if at < 0:
            break
        pieces.append(text[start : at + 1])
        start = at + 1
    pieces.append(text[start:])
    return pieces
