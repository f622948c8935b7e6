"""Export of a sentencepiece model to the files that `transformers.AutoTokenizer` loads, with the same ids.

The vocabulary, its scores and the normaliser are carried over into a model of the library `tokenizers`. Both search
the same best segmentation; with scores whose sums are exact (`spm_proto.exact_scores`) they also find the same one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyjpllm.data import spm_proto
from pyjpllm.data.tokenizer import NFKC
from pyjpllm.errors import UserError
from pyjpllm.files import atomic_write

if TYPE_CHECKING:
    from pyjpllm.data.tokenizer import Tokenizer

_SPACE = "\u2581"
# Below every path through ordinary pieces: a text that spells out "<0x41>" must not become the byte piece.
_NEVER = -1.0e6
_CHECKS = (
    "吾輩は猫である。名前はまだ無い。",
    "  a\n\n\tＡ①㌔ \U00020bb7\r\n   <0x41> ー",
    "2024年 x = [1, 2]  # é\u0301\x00",
)


def write_hf(tokenizer: Tokenizer, folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, special_tokens_map.json and tokenizer.model into ``folder``."""
    info = tokenizer.info
    reason = _obstacle(info)
    if reason is not None:
        raise UserError(f"{tokenizer.model_path}: cannot be written for transformers: {reason}")
    try:
        import tokenizers
    except ImportError:
        raise UserError("the Hugging Face export needs the package tokenizers: pip install pyjpllm[hf]") from None
    fast = _build(tokenizer, tokenizers)
    for text in _CHECKS:
        if fast.encode(text, add_special_tokens=False).ids != tokenizer.encode(text):
            raise UserError(
                f"{tokenizer.model_path}: cannot be written for transformers: {text!r} gets other ids there"
            )
    eos, pad, unk = (info.pieces[i].text if i >= 0 else None for i in _special_ids(tokenizer))
    specials = {"bos_token": info.pieces[tokenizer.bos_id].text, "eos_token": eos, "pad_token": pad, "unk_token": unk}
    specials = {name: piece for name, piece in specials.items() if piece is not None}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 10**30,
        "model_input_names": ["input_ids", "attention_mask"],
        **specials,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "tokenizer.json", json.loads(fast.to_str()))
    _write(folder / "special_tokens_map.json", specials)
    _write(folder / "tokenizer_config.json", config)
    tokenizer.save(folder)


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _special_ids(tokenizer: Tokenizer) -> tuple[int, int, int]:
    return tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id


def _obstacle(info: spm_proto.ModelInfo) -> str | None:
    """Why the model cannot be expressed, or None."""
    if info.model_type not in (spm_proto.UNIGRAM, spm_proto.BPE):
        return "it is neither a unigram nor a BPE model"
    if not info.byte_fallback:
        return "it has no byte fallback"
    if info.add_dummy_prefix or info.remove_extra_whitespaces or not info.escape_whitespaces:
        return "it changes the spaces of a text (add_dummy_prefix or remove_extra_whitespaces)"
    if info.model_type == spm_proto.UNIGRAM and any(p.type == spm_proto.USER_DEFINED for p in info.pieces):
        return "it has user-defined pieces without scores"
    for piece in info.pieces:
        if piece.type == spm_proto.USER_DEFINED and len(piece.text) > 1 and not _is_run(piece.text):
            return f"it has the user-defined piece {piece.text!r}"
    return None


def _build(tokenizer: Tokenizer, tokenizers: Any) -> Any:
    """The model as a ``tokenizers.Tokenizer``."""
    from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

    info = tokenizer.info
    if info.model_type == spm_proto.UNIGRAM:
        ordinary = (spm_proto.NORMAL, spm_proto.USER_DEFINED)
        vocabulary = [(p.text, p.score if p.type in ordinary else _NEVER) for p in info.pieces]
        fast = tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id=tokenizer.unk_id, byte_fallback=True))
    else:
        ids = {piece.text: token for token, piece in enumerate(info.pieces)}
        unk = info.pieces[tokenizer.unk_id].text
        model = models.BPE(ids, _merges(info), unk_token=unk, fuse_unk=True, byte_fallback=True)
        fast = tokenizers.Tokenizer(model)
        # sentencepiece cuts a text at user-defined pieces, the longest first, before it merges anything.
        own = sorted((p.text for p in info.pieces if p.type == spm_proto.USER_DEFINED), key=len, reverse=True)
        if own:
            pattern = "|".join(_escape(piece) for piece in own)
            fast.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    steps: list[Any] = []
    if info.normalizer == NFKC:
        steps.append(normalizers.NFKC())
    if info.charsmap:
        steps.append(normalizers.Precompiled(info.charsmap))
    fast.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    fast.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    controls = (p for p in info.pieces if p.type in (spm_proto.CONTROL, spm_proto.UNKNOWN))
    fast.add_special_tokens([AddedToken(p.text, special=True, normalized=False) for p in controls])
    return fast


def _escape(piece: str) -> str:
    """``piece`` as a regular expression: every character by its number."""
    return "".join(f"\\x{{{ord(character):x}}}" for character in piece)


def _merges(info: spm_proto.ModelInfo) -> list[tuple[str, str]]:
    """Every way to put a piece together out of two, in the order in which sentencepiece merges.

    Runs of spaces come first: they stand alone (see the pre-tokenizer), so any order makes one piece of them.
    """
    ordinary = {p.text: p.score for p in info.pieces if p.type == spm_proto.NORMAL}
    runs = {p.text for p in info.pieces if p.type == spm_proto.USER_DEFINED and _is_run(p.text)} | {_SPACE}
    merges = [(left, right) for left in sorted(runs) for right in sorted(runs) if left + right in runs]
    for text in sorted(ordinary, key=lambda t: -ordinary[t]):
        pairs = ((text[:at], text[at:]) for at in range(1, len(text)))
        merges += [(left, right) for left, right in pairs if left in ordinary and right in ordinary]
    return merges


def _is_run(text: str) -> bool:
    return set(text) == {_SPACE}
