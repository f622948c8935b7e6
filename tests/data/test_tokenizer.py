"""The tokenizer: nothing is lost, the same input trains the same model, and transformers gives the same ids."""

from __future__ import annotations

import random
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pyjpllm.data import spm_proto
from pyjpllm.data.tokenizer import SPACE, Tokenizer, _pieces
from pyjpllm.data.tokenizer_train import EOS, PAD, UNK, TokenizerOptions, lines_of, sample_lines, train_tokenizer
from pyjpllm.errors import UserError
from tests.data.corpora import make_tokenizer, texts

KINDS = ("unigram", "bpe")
ODD = [
    "",
    " ",
    "   先頭の空白",
    "末尾の空白   ",
    "全角\u3000空白",
    " " * 100,
    "\n",
    "\n\n\r\n\t \t\n",
    "a\rb\x00c\x01\x7f\x85\u2028\u2029",
    "\u200b\ufeff\ufffe\uffff\U0010ffff",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 ❤\ufe0f \U0001f1ef\U0001f1f5",
    "か\u3099は\u309aＡＢＣ①㌔㋿ｶﾞ",
    "\U00020bb7野家 髙島屋 葛\U000e0100城",
    "q\u0307\u0323 \u1100\u1161\u11a8",
    "<s></s><0x41><|eos|><unk><|pad|>"[:18],
    "<0x41>",
    "ーーーーー。。。。。wwwww",
    "def f(x):\n    if x:\n        return  x\n",
    SPACE + "x" + SPACE * 3,
]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), request.param)


def nfkc(text: str) -> str:
    return unicodedata.normalize("NFKC", text).replace(SPACE, " ")


# Characters newer than Python's own Unicode tables are left out: sentencepiece's NFKC may know more of them.
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs", "Cn"]) | st.sampled_from(" \n\t\r" + SPACE + "日本語ー。x<"))


@settings(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
@example(text="\n ".join(ODD))
def test_nothing_is_lost(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    back = tokenizer.decode(ids)
    assert back == nfkc(text)
    assert back == tokenizer.normalize(text)
    assert tokenizer.unk_id not in ids
    assert int(tokenizer.token_bytes()[ids].sum()) == len(back.encode())


@pytest.mark.parametrize("text", ODD)
def test_odd_texts(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == nfkc(text)


def test_all_characters_of_the_basic_plane(tokenizer: Tokenizer) -> None:
    assigned = [chr(c) for c in range(0x10000) if unicodedata.category(chr(c)) not in ("Cs", "Cn")]
    for start in range(0, len(assigned), 1000):
        text = "|".join(assigned[start : start + 1000])
        assert tokenizer.decode(tokenizer.encode(text)) == nfkc(text)


def test_special_ids(tokenizer: Tokenizer) -> None:
    assert (tokenizer.unk_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2)
    assert tokenizer.bos_id == tokenizer.eos_id
    assert [tokenizer.piece(token) for token in range(4)] == [UNK, EOS, PAD, "\n"]
    assert tokenizer.vocab_size == 480
    assert tokenizer.decode([1, *tokenizer.encode("日本"), 1, 2]) == "日本"
    assert tokenizer.token_bytes()[:4].tolist() == [0, 0, 0, 1]
    assert tokenizer.token_bytes().sum() > 480
    assert tokenizer.decode(np.array(tokenizer.encode("日本"))) == "日本"  # type: ignore[arg-type]
    for wrong in (-1, 480):
        with pytest.raises(ValueError, match=f"token id {wrong} is outside the vocabulary of 480"):
            tokenizer.decode([5, wrong])
    with pytest.raises(ValueError, match="surrogates"):
        tokenizer.encode("\ud800")


def test_what_stands_alone(tokenizer: Tokenizer) -> None:
    def pieces(text: str) -> list[str]:
        return [tokenizer.piece(token) for token in tokenizer.encode(text)]

    assert pieces("2024") == ["2", "0", "2", "4"]
    assert pieces("\n\n") == ["\n", "\n"]
    for run in range(2, 25):
        assert pieces(" " * run) == [SPACE * run]
    assert sorted(map(len, pieces(" " * 30))) == [6, 24]
    assert pieces("é") == ["<0xC3>", "<0xA9>"]
    assert len(pieces("~`")) == 2  # printable ASCII is always in


def test_long_texts_are_encoded_in_pieces_with_the_same_ids(tokenizer: Tokenizer) -> None:
    line = texts(1, seed=3)[0]
    for joint in ("\n", "\n\n", ""):
        text = joint.join([line] * (20000 // len(line) + 500))
        assert tokenizer.encode(text) == list(tokenizer._processor.EncodeAsIds(unicodedata.normalize("NFKC", text)))
    for text in ("a" * 40000, "\n" * 40000, ("b" * 20000 + "\n") * 3, "c" * 16384 + "\nd" * 9):
        parts = _pieces(text)
        assert "".join(parts) == text
        assert all(len(part) <= 16384 or "\n" not in part[:-1] for part in parts)
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic(tmp_path: Path, kind: Any) -> None:
    options = TokenizerOptions(vocab_size=480, kind=kind, threads=2)
    first = train_tokenizer(iter(texts(600)), tmp_path / "a", options)
    second = train_tokenizer(texts(600), tmp_path / "b", options)
    assert first.fingerprint == second.fingerprint
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["tokenizer.model"]
    saved = first.save(tmp_path / "c")
    assert Tokenizer.load(saved).fingerprint == first.fingerprint


def test_identity_normalization(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(texts(600), tmp_path, TokenizerOptions(vocab_size=500, normalization="identity"))
    for text in [*ODD, "ＡＢＣ①㌔"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace(SPACE, " ") == tokenizer.normalize(text)


def test_scores_are_exact(tmp_path: Path) -> None:
    pieces = make_tokenizer(tmp_path).info.pieces
    assert all((piece.score * 16).is_integer() for piece in pieces)
    assert {piece.type for piece in pieces} == {spm_proto.NORMAL, spm_proto.UNKNOWN, spm_proto.CONTROL, spm_proto.BYTE}
    assert pieces[3].score == pieces[4].score == 0.0
    assert max(p.score for p in pieces[26 + 257 :]) < 0.0


def test_sampling_is_the_lines_of_smallest_hash() -> None:
    lines = [f"{number:06d}" for number in range(5000)]
    assert sample_lines(lines, 6 * 5000, 1) == lines
    drawn = sample_lines(lines, 600, 1)
    assert len(drawn) == 100
    assert drawn == sorted(drawn)
    assert set(drawn) < set(sample_lines(lines, 6000, 1))
    assert drawn != sample_lines(lines, 600, 2)
    assert abs(np.mean([int(line) for line in drawn]) - 2500) < 500
    assert len(sample_lines(lines, 1, 1)) == 1


def test_lines() -> None:
    assert list(lines_of(["a\n\nｂ", "", "c" * 9000], "nfkc")) == ["a", "b", "c" * 4000, "c" * 4000, "c" * 1000]
    assert list(lines_of(["ｂ"], "identity")) == ["ｂ"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 100}, "vocab size 100: .* at least 384"),
        ({"vocab_size": 390}, r"vocab size 390 is too small: characters and bytes alone need \d+"),
        ({"vocab_size": 50000}, r"vocab size 50000 is too large for this little text; at most \d+"),
        ({"vocab_size": 10**10}, "vocab size 10000000000: at most 10,000,000"),
        ({"character_coverage": 0.95}, "character coverage 0.95: allowed are 0.98 to 1"),
        ({"max_piece_length": 0}, "max piece length 0"),
        ({"threads": 0}, "threads 0: allowed are 1 to 1024"),
        ({"threads": 2000}, "threads 2000: allowed are 1 to 1024"),
    ],
)
def test_training_mistakes(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_tokenizer(texts(200), tmp_path, TokenizerOptions(**changes))
    assert not list(tmp_path.iterdir())


def test_no_text(tmp_path: Path) -> None:
    for nothing in ([], [""], ["\n\n"]):
        with pytest.raises(UserError, match="no text to train"):
            train_tokenizer(nothing, tmp_path)


def test_loading_mistakes(tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "here")
    with pytest.raises(UserError, match=r"no such tokenizer; did you mean '.*/here'"):
        Tokenizer.load(tmp_path / "her")
    with pytest.raises(UserError, match=r"the folder '.*' does not exist"):
        Tokenizer.load(tmp_path / "x" / "y")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty/tokenizer\.model: no such tokenizer"):
        Tokenizer.load(tmp_path / "empty")
    whole = (tmp_path / "here" / "tokenizer.model").read_bytes()
    for broken in (b"", b"{}", b"not a model at all", whole[:1000], whole[: len(whole) // 2]):
        (tmp_path / "empty" / "tokenizer.model").write_bytes(broken)
        with pytest.raises(UserError, match=r"tokenizer\.model: (not a sentencepiece model|the model has no end)"):
            Tokenizer.load(tmp_path / "empty")


# ---- Hugging Face ----


def strange_texts(count: int) -> list[str]:
    chance = random.Random(7)
    alphabet = [chr(c) for c in (*range(0x250), *range(0x2000, 0x2070), *range(0x2580, 0x2590), *range(0x3000, 0x3100))]
    alphabet += [chr(c) for c in (*range(0x4E00, 0x4E80), *range(0xFF00, 0xFFEF), 0x1F600, 0x200D, 0x20BB7, 0xE000)]
    alphabet += list("\u0301\u3099\ufe0f\ufffd\ufffe\U0010ffff")
    spaces = [" ", "  ", " " * 5, " " * 30, "\n", "\n\n", "\t", "\r\n", "\u3000", SPACE]
    words = [*spaces, "日本", "日", "return", "x", "ー", "<0x41>", "。。。", "a"]
    japanese = texts(count // 4, seed=9)
    made = []
    for number in range(count):
        length = chance.randint(0, 40)
        source = (None, alphabet, words, list("日本語文aabかきくけ  ▁ー。"))[number % 4]
        made.append(japanese[number // 4] if source is None else "".join(chance.choices(source, k=length)))
    return [*made, *ODD]


def test_transformers_gives_the_same_ids_and_texts(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save_hf(tmp_path)
    names = ["special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id, theirs.unk_token_id) == (1, 1, 2, 0)
    assert len(theirs) == tokenizer.vocab_size
    for text in strange_texts(4000):
        ids = tokenizer.encode(text)
        assert theirs(text)["input_ids"] == ids, text
        assert theirs.decode(ids) == tokenizer.decode(ids), text
    assert theirs.decode([1, *tokenizer.encode("日本"), 2], skip_special_tokens=True) == "日本"


def test_transformers_with_the_models_config_beside(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save_hf(tmp_path)
    for model, architecture in (("llama", "LlamaForCausalLM"), ("qwen3", "Qwen3ForCausalLM")):
        (tmp_path / "config.json").write_text(f'{{"model_type": "{model}", "architectures": ["{architecture}"]}}')
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
        for text in ODD:
            assert theirs(text)["input_ids"] == tokenizer.encode(text)


def test_a_long_text_in_transformers(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save_hf(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    text = "\n".join(texts(700, seed=4))
    assert len(text) > 50000
    assert theirs(text)["input_ids"] == tokenizer.encode(text)


def of_others(folder: Path, lines: list[str], **changes: Any) -> tuple[Tokenizer, Any]:
    """A model with sentencepiece's defaults, loaded by us and by sentencepiece."""
    import io

    import sentencepiece

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=buffer, vocab_size=500, hard_vocab_limit=False,
        minloglevel=2, num_threads=1, **changes,
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(buffer.getvalue())
    return Tokenizer.load(folder), sentencepiece.SentencePieceProcessor(model_proto=buffer.getvalue())


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nfkc_cf", "nfkc", "identity"])
def test_models_of_others_get_their_own_ids(rule: str, tmp_path: Path) -> None:
    """The default's table keeps ～, which NFKC makes a tilde."""
    mine, theirs = of_others(
        tmp_path, [*texts(300), *["営業時間は～まで、ｆｕｌｌ～です。"] * 50], normalization_rule_name=rule
    )
    for text in ("営業～まで", "ｆｕｌｌ～", "ＡＢＣ①㌔", "か\u3099", "a  b"):
        assert mine.encode(text) == theirs.EncodeAsIds(text)


@pytest.mark.parametrize("changes", [{}, {"add_dummy_prefix": False}, {"remove_extra_whitespaces": False}])
def test_long_texts_of_models_that_change_spaces_are_encoded_whole(changes: dict[str, Any], tmp_path: Path) -> None:
    mine, theirs = of_others(
        tmp_path, texts(300), user_defined_symbols=["\n"], normalization_rule_name="identity", **changes
    )
    text = "hello world testing\n" * 1000
    assert mine.encode(text) == theirs.EncodeAsIds(text)


def test_the_text_behind_a_prompt(tokenizer: Tokenizer, tmp_path: Path) -> None:
    mine, _ = of_others(tmp_path, texts(300))
    for each in (mine, tokenizer):
        text = each.normalize("Hello, world! 日本").removeprefix(" ")
        ids = each.encode("Hello, world! 日本")
        for cut in range(len(ids) + 1):
            assert each.decode(ids[:cut]) + each.continuation(ids[:cut], ids[cut:]) == text


def test_short_pieces(tmp_path: Path) -> None:
    """The length of Japanese pieces is for Japanese lines that are apart."""
    short = train_tokenizer(texts(600), tmp_path, TokenizerOptions(vocab_size=460, max_piece_length=4, threads=1))
    assert (
        max(len(piece.text) for piece in short.info.pieces if piece.type == spm_proto.NORMAL and piece.score < 0) <= 4
    )


PLAIN_SPACES = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "it has no byte fallback"),
        ({"byte_fallback": True}, "it changes the spaces of a text"),
        ({"byte_fallback": True, **PLAIN_SPACES,
          "user_defined_symbols": ["日本"]}, "it has user-defined pieces without scores"),
        ({"byte_fallback": True, **PLAIN_SPACES,
          "user_defined_symbols": ["日本"], "model_type": "bpe"}, "it has the user-defined piece '日本'"),
        ({"model_type": "char"}, "it is neither a unigram nor a BPE model"),
    ],
)  # fmt: skip
def test_models_of_others_that_cannot_be_exported(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    import io

    import sentencepiece

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts(300)), model_writer=buffer, vocab_size=500, hard_vocab_limit=False,
        minloglevel=2, num_threads=1, **changes,
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(buffer.getvalue())
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.bos_id == 1  # their own
    assert tokenizer.decode(tokenizer.encode("日本語")) == "日本語"
    with pytest.raises(UserError, match=message):
        tokenizer.save_hf(tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_without_the_library(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install pyjpllm\[hf\]"):
        tokenizer.save_hf(tmp_path / "hf")
