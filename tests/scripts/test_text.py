"""The quickstart's text: roff and HTML to paragraphs, cleaning, the split, the user's own files."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyjpllm.corpus.build import build_corpus
from pyjpllm.corpus.config import load_corpus_config
from pyjpllm.errors import UserError
from tests.scripts.conftest import REPO

Modules = dict[str, ModuleType]

PAGE = r""".\" a comment that nobody reads
.TH 試験 1
.SH 名前
試験 \- 何かを
試すコマンド
.SH "説明 と 例"
.B ls \-l
は
.BR open (2)
を呼ぶ\fB太字\fPと\(aq引用\(aqと\e記号。
Latin words
join with a space.
.TS
l l.
表	の中
.TE
.ig
これは無視される。
..
.PP
次の段落。
.nf
一行目
二行目
.fi
"""


def test_roff(quickstart: Modules) -> None:
    assert quickstart["extract"].from_roff(PAGE).split("\n") == [
        "名前",
        "試験 - 何かを試すコマンド",
        "説明 と 例",
        r"ls -lはopen(2)を呼ぶ太字と'引用'と\記号。Latin words join with a space.",
        "次の段落。",
        "一行目",
        "二行目",
    ]


@pytest.mark.parametrize("page", [".so man1/other.1\n", ".Dd 2020\n.Sh 名前\n本文\n", ""])
def test_roff_pages_without_text(quickstart: Modules, page: str) -> None:
    assert quickstart["extract"].from_roff(page) == ""


def test_html(quickstart: Modules) -> None:
    page = """<html><head><title>題</title><style>p {}</style></head><body>
    <div class="navheader"><p>次へ<div>深い</div></div>
    <h1>見出し</h1><p>一つめの
    文&amp;続き。<br>二つめの<b>文</b>。<pre>code();</pre><ul><li>項目<li>別の項目</ul>
    <script>var x = "<p>いいえ</p>";</script><table><tr><td>左<td>右</table>Latin
    words</body></html>"""
    assert quickstart["extract"].from_html(page).split("\n") == [
        "見出し",
        "一つめの文&続き。",
        "二つめの文。",
        "項目",
        "別の項目",
        "左",
        "右",
        "Latin words",
    ]


def make_deb(folder: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """A package with these files."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not on this machine (no Debian)")
    tree = folder / f"tree-{name}-{version}"
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@example.org>\nDescription: test\n"
    )
    target = folder / f"{name}_{version}_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, target], check=True, capture_output=True)
    shutil.rmtree(tree)
    return target


def test_pages_of_a_package(quickstart: Modules, tmp_path: Path) -> None:
    jar = io.BytesIO()
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("help/b.html", "<p>箱の中</p>")
        archive.writestr("help/c.txt", "no")
    deb = make_deb(
        tmp_path,
        "manual",
        "1.0",
        {
            "usr/man/ja/man1/b.1.gz": gzip.compress(".SH 名前\n二番\n".encode()),
            "usr/man/ja/man1/a.1.gz": gzip.compress(".SH 名前\n一番\n".encode()),
            "usr/man/ja/man1/euc.1.gz": gzip.compress("一番".encode("euc-jp")),
            "usr/doc/x.jar": jar.getvalue(),
        },
    )
    pages = quickstart["extract"].pages
    assert [(page.name, page.text) for page in pages(deb, "man", "usr/man/ja/man*/*.gz")] == [
        ("usr/man/ja/man1/a.1.gz", "名前\n一番"),
        ("usr/man/ja/man1/b.1.gz", "名前\n二番"),
    ]
    assert [(page.name, page.text) for page in pages(deb, "html", "usr/doc/*.jar!*.html")] == [
        ("usr/doc/x.jar!help/b.html", "箱の中")
    ]
    deb.write_bytes(b"no package")
    with pytest.raises((OSError, Exception), match=r"dpkg-deb|empty|read"):
        list(pages(deb, "man", "*"))


# --- cleaning ---------------------------------------------------------------------------------------------------------


def sentence(number: int) -> str:
    """A line of prose unlike every other one."""
    kanji = "".join(chr(0x4E00 + (number * 7919 + i * 104729) % 20000) for i in range(24))
    return f"これは{kanji}という文である。"


def documents(quickstart: Modules, count: int, lines: int = 12) -> list[object]:
    make = quickstart["clean"].Document
    return [
        make(f"document-{n}", "test", "\n".join(sentence(n * lines + i) for i in range(lines))) for n in range(count)
    ]


def pipeline(work: Path, config: str) -> None:
    """What `jpllm corpus build` does in a quickstart's folder, in this process."""
    text = (REPO / "scripts" / "quickstart" / config).read_text(encoding="utf-8")
    path = work / config
    path.write_text(
        text.replace('"text/', f'"{work}/text/').replace("processes = 0", "processes = 1"), encoding="utf-8"
    )
    build_corpus(load_corpus_config(path), work / "corpus")


def parts(work: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The records to train on and those held out."""
    train, held_out = (
        [json.loads(line) for line in (work / "text" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("train", "heldout")
    )
    return train, held_out


def lines_of(records: list[dict[str, Any]]) -> set[str]:
    return {line for record in records for line in record["text"].split("\n")}


def test_nothing_is_in_both_parts(quickstart: Modules, tmp_path: Path) -> None:
    clean = quickstart["clean"]
    given_documents = documents(quickstart, 120)
    shared = "この一行はどの文書の終わりの方にもある1番目の注意書きである。"
    for n, document in enumerate(given_documents):
        document.text += (
            f"\n{shared.replace('1', str(n))}\nprintf(1);\nＡＢＣ と  いう  行 も ま た ど こ か に あ る{n}"
        )
    prepare = quickstart["prepare"]
    prepare.write_jsonl(tmp_path / "text" / "pages.jsonl", clean.in_order(given_documents))
    pipeline(tmp_path, "corpus.toml")
    prepare.write_parts(tmp_path)
    work = tmp_path
    train, held_out = parts(work)
    assert held_out
    assert not lines_of(train) & lines_of(held_out)
    assert len([line for line in lines_of(train) if "注意書き" in line]) == 1  # they differ in a number
    assert not any("printf" in line for line in lines_of(train) | lines_of(held_out))
    assert any(line.startswith("ABC と いう 行 も") for line in lines_of(train))
    assert all(clean.is_held_out(record["meta"]["id"]) for record in held_out)
    assert not any(clean.is_held_out(record["meta"]["id"]) for record in train)


def test_a_line_nearly_in_the_training_text_is_not_held_out(quickstart: Modules) -> None:
    clean = quickstart["clean"]
    some = documents(quickstart, 120, lines=12)
    train = next(document for document in some if not clean.is_held_out(document.name))
    held_out = next(document for document in some if clean.is_held_out(document.name))
    line = "".join(sentence(900_000 + n) for n in range(3))
    train.text += "\n" + line
    held_out.text += "\n" + line.replace("である。", "です。", 1)
    split = clean.split(clean.in_order(some))
    assert split.dropped == {"held-out lines too like the training text": 1}
    assert line[-20:] not in "".join(document.text for document in split.held_out)


def test_short_documents_go(quickstart: Modules) -> None:
    clean = quickstart["clean"]
    held_out = next(f"{n}" for n in range(1000) if clean.is_held_out(f"{n}"))
    split = clean.split([clean.Document(held_out, "test", "短い。")])
    assert not split.train
    assert not split.held_out
    assert split.dropped == {"held-out documents left too short": 1}


@given(st.lists(st.text(min_size=1, max_size=8), unique=True, max_size=40), st.data())
def test_the_split_depends_on_the_name_alone(quickstart: Modules, names: list[str], data: st.DataObject) -> None:
    clean = quickstart["clean"]
    make = [clean.Document(name, "test", sentence(n) * 3) for n, name in enumerate(names)]
    some = data.draw(st.permutations(make))[: len(make) // 2]
    whole, part = (clean.split(clean.in_order(d), minimum=1) for d in (make, some))
    held_out = {document.name for document in whole.held_out}
    assert {document.name for document in part.held_out} == held_out & {document.name for document in some}


# --- the user's own text ----------------------------------------------------------------------------------------------


def test_own_text(quickstart: Modules, tmp_path: Path) -> None:
    lines = [sentence(n) for n in range(4000)]
    plain = tmp_path / "novel.txt"
    plain.write_text("\n".join(line + ("\n" if n % 9 == 0 else "") for n, line in enumerate(lines)), encoding="utf-8")
    records = tmp_path / "more.jsonl"
    records.write_text(
        "".join(json.dumps({"text": sentence(10_000 + n) * 9}) + "\n" for n in range(60)), encoding="utf-8"
    )
    work = tmp_path / "work"
    prepare = quickstart["prepare"]
    prepare.write_pages(work, [plain, records])
    pipeline(work, "own-text.toml")
    prepare.write_parts(work)
    train, held_out = parts(work)
    assert {record["meta"]["source"] for record in train} == {"novel.txt", "more.jsonl"}
    assert held_out
    kept = {line for record in train + held_out for line in record["text"].split("\n")}
    assert set(lines) <= kept
    before = (work / "text" / "train.jsonl").read_bytes()
    prepare.write_parts(work)
    assert (work / "text" / "train.jsonl").read_bytes() == before


def test_too_little_text(quickstart: Modules, tmp_path: Path) -> None:
    small = tmp_path / "small.txt"
    small.write_text(sentence(1) * 10, encoding="utf-8")
    prepare = quickstart["prepare"]
    prepare.main(["pages", str(tmp_path), "--text", str(small)])
    pipeline(tmp_path, "own-text.toml")
    with pytest.raises(UserError, match="give more text"):
        prepare.write_parts(tmp_path)
    with pytest.raises(SystemExit, match=r"quickstart: .*give more text"):
        prepare.main(["split", str(tmp_path)])
    small.write_bytes("日本".encode("euc-jp"))
    with pytest.raises(UserError, match=r"small\.txt: not UTF-8 at byte 0"):
        prepare.write_pages(tmp_path, [small])


def test_blocks_end_at_blank_lines(quickstart: Modules) -> None:
    text = "\n".join(["あ" * 100] * 21 + [""] + ["い" * 100] * 200)
    pieces = quickstart["prepare"].blocks(text)
    assert pieces[0] == "\n".join(["あ" * 100] * 21)
    assert [len(piece) for piece in pieces[1:]] == [8080, 8079, 4040 - 1]
    assert "".join(pieces).replace("\n", "") == text.replace("\n", "")
