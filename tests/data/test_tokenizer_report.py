"""The report on tokenizers: its counts are those of a plain loop, and what it shows adds up."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pyjpllm.cli.app import run
from pyjpllm.corpus import Document, DocumentWriter
from pyjpllm.data import spm_proto
from pyjpllm.data.spm_proto import Piece
from pyjpllm.data.tokenizer import Tokenizer
from pyjpllm.data.tokenizer_report import NO_DOMAIN, report_tokenizers, script_of
from tests.data.corpora import make_tokenizer, texts
from tests.data.test_tokenizer import ODD


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    make_tokenizer(folder / "unigram", "unigram")
    make_tokenizer(folder / "bpe", "bpe")
    documents = [Document(text, {"source": "a" if n % 3 else "b"}) for n, text in enumerate(texts(40, seed=5))]
    for name, part in (("x", documents[:25]), ("y", [*documents[25:], *map(Document, ODD)])):
        with DocumentWriter(folder / f"{name}.jsonl.zst") as writer:
            for document in part:
                writer.add(document)
    return folder


def test_counts(folder: Path) -> None:
    loaded = [(kind, Tokenizer.load(folder / kind)) for kind in ("unigram", "bpe")]
    files = [folder / "x.jsonl.zst", folder / "y.jsonl.zst"]
    for (kind, tokenizer), report in zip(loaded, report_tokenizers(loaded, files, "source"), strict=True):
        assert (report.tokenizer, report.kind, report.vocab_size) == (kind, kind, 480)
        sources = [(document, "ab"[n % 3 == 0]) for n, document in enumerate(texts(40, seed=5))]
        all_texts = [*sources, *((text, NO_DOMAIN) for text in ODD)]
        used: Counter[int] = Counter()
        for domain, fit in report.domains.items():
            mine = [text for text, source in all_texts if source == domain]
            ids = [tokenizer.encode(text) for text in mine]
            used.update(token for some in ids for token in some)
            assert fit.documents == len(mine)
            assert fit.characters == sum(map(len, mine))
            assert fit.bytes == sum(len(text.encode()) for text in mine)
            assert fit.tokens == sum(map(len, ids))
            in_bytes = [[t for t in some if tokenizer.info.pieces[t].type == spm_proto.BYTE] for some in ids]
            assert fit.byte_tokens == sum(map(len, in_bytes))
            pieces = {piece.text for piece in tokenizer.info.pieces if piece.type == spm_proto.NORMAL}
            if domain == NO_DOMAIN:
                # What no piece begins is written in bytes.
                known = {piece for piece in pieces if len(piece) == 1} | set(" ▁\n")
                plain = [c for text in mine for c in tokenizer.normalize(text) if c not in known]
                assert fit.byte_characters == len(plain) > 0
            assert fit.normalized == sum(tokenizer.decode(some) != text for some, text in zip(ids, mine, strict=True))
            assert fit.failures == 0
        assert set(report.domains) == {"a", "b", NO_DOMAIN}
        assert report.total.tokens == sum(fit.tokens for fit in report.domains.values())
        assert report.total.characters == sum(len(text) for text, _ in all_texts)
        assert sum(report.scripts.values()) == 480
        assert report.scripts["bytes"] == 256
        assert report.scripts["special"] == 3
        unused = [p.text for n, p in enumerate(tokenizer.info.pieces) if p.type == spm_proto.NORMAL and not used[n]]
        assert [text for text in unused if text != "\n" and set(text) != {"▁"}] == report.unused
        assert 0 < len(report.unused) < report.pieces


def test_what_does_not_come_back(folder: Path, tmp_path: Path) -> None:
    """A tokenizer without byte fallback loses characters; each failure is shown where it is."""
    import io

    import sentencepiece

    buffer = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts(300)), model_writer=buffer, vocab_size=300, hard_vocab_limit=False,
        character_coverage=0.98, minloglevel=2, num_threads=1, normalization_rule_name="identity",
    )  # fmt: skip
    (tmp_path / "tokenizer.model").write_bytes(buffer.getvalue())
    (tmp_path / "t.jsonl").write_text('{"text": "吾輩は猫である。\\u732b\\ud83d\\ude00とかき"}\n{"text": "かき"}\n')
    (report,) = report_tokenizers([("t", Tokenizer.load(tmp_path))], [tmp_path / "t.jsonl"], None)
    assert (report.total.documents, report.total.failures) == (2, 1)
    (example,) = report.examples
    assert example.document == 0
    assert "😀" in example.text
    assert "😀" not in example.back


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("です", "hiragana"), ("サーバー", "katakana"), ("日々", "kanji"), ("食べる", "mixed Japanese"),
        ("▁the", "latin"), ("ＡＢ", "latin"), ("12", "digits"), ("第1", "mixed"), ("、", "signs"),
        ("▁▁", "white space"), ("\n", "white space"), ("です。", "hiragana"), ("Привет", "other letters"),
        ("한국", "other letters"),
        ("ー", "katakana"),
    ],
)  # fmt: skip
def test_scripts(text: str, script: str) -> None:
    assert script_of(Piece(text, -1.0, spm_proto.NORMAL)) == script


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[Any] = ["tokenizer", "report", folder / "x.jsonl.zst", folder / "y.jsonl.zst"]
    words += ["--tokenizer", folder / "unigram", "--tokenizer", folder / "bpe"]
    assert run([str(word) for word in words]) == 0
    lines = capsys.readouterr().out.splitlines()
    both = next(line for line in lines if line.startswith("  all"))
    assert both.split()[1] == str(40 + len(ODD))
    assert any(line.startswith("  ...") and "x.jsonl.zst" in line for line in lines)
    assert run([str(word) for word in [*words, "--json", "--domain", "source"]]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [report["kind"] for report in reports] == ["unigram", "bpe"]
    assert f"{reports[0]['total']['characters_per_token']:.3f}" == both.split()[3]
    assert set(reports[0]["domains"]) == {"a", "b", NO_DOMAIN}
    assert run([str(word) for word in [*words, "--domain", "sorce"]]) == 2
    assert "--domain sorce: no document has it in its meta; did you mean 'source'?" in capsys.readouterr().err
    assert run(["tokenizer", "report", str(folder / "x.jsonl.zst"), "--tokenizer", str(folder / "unigra")]) == 2
    assert "did you mean" in capsys.readouterr().err
