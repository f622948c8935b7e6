"""Personal data: what is found, what must not be, and that masking leaves nothing."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pyjpllm.corpus.documents import Document
from pyjpllm.corpus.personal import Found, PersonalConfig, find_personal, mask_personal
from pyjpllm.corpus.personal_patterns import KINDS, luhn, my_number_check, plain

FOUND = {
    "email": ["taro@example.com", "taro.yamada+x@mail.example.co.jp", "ｔａｒｏ＠ｅｘａｍｐｌｅ．ｊｐ"],
    "card": ["4111111111111111", "4111 1111 1111 1111", "5555-5555-5555-4444", "3782 822463 10005", "3530111333300000",
             "４１１１－１１１１－１１１１－１１１１", "30569309025904"],
    "my_number": ["123456789018", "1234-5678-9018", "1234 5678 9018", "１２３４５６７８９０１８"],
    "ipv4": ["8.8.8.8", "133.11.0.1", "１３３．１１．０．１"],
    "ipv6": ["2001:4860:4860::8888", "2400:2650:0000:0001:0000:0000:0000:0001"],
    "phone": ["03-1234-5678", "０３－１２３４－５６７８", "090-1234-5678", "09012345678", "0120-123-456",
              "0120-12-3456",
              "(03)1234-5678", "03(1234)5678", "０４５（１２３）４５６７", "+81-3-1234-5678", "+81 90 1234 5678",
              "0800-123-4567",
              "03 1234 5678", "0570-012-345", "04992-2-1234", "03ー1234ー5678", "+81 (0)3-1234-5678"],
    "postal_code": ["〒100-0001", "〒１００－０００１", "〒1000001", "郵便番号:100-0001"],
    "address": ["東京都千代田区千代田1-1", "東京都港区芝公園４丁目２－８", "大阪府大阪市北区梅田三丁目1番3号",
                "北海道札幌市中央区北一条西2丁目", "京都府京都市上京区藪之内町85番地",
                "神奈川県横浜市西区みなとみらい2-3-1"],
}  # fmt: skip
# What only looks like it.
NOTHING = [
    "2023-01-05", "2023年1月5日", "1995/12/31 23:59:59", "2023-01-05T12:30:45", "令和5年1月5日", "202301051230",
    "Python 3.11.7", "バージョン 1.2.3.4", "ver. 10.0.0.1", "v1.2.3.4", "Chrome/120.0.6099.109", "linux-6.1.0.13",
    "1.2.3.4.5", "192.168.0.1", "127.0.0.1", "10.1.2.3", "256.1.1.1", "第1.2.3.4項のとおり v2.3.4.5",
    "ISBN 978-4-06-519981-7", "ISBN4-06-519981-7", "ISBN 9784065199817", "ISBN 0-306-40615-2", "ISSN 0028-0836",
    "1,234,567,890円", "¥12,345,678", "12,345.67ドル", "価格は1980円(税込2178円)", "100-200人", "0.12-0.34-0.5678",
    "4111111111111112", "1234567890123456", "123456789012", "1234-5678-9012", "std::vector<int>", "12:30:45", "::1",
    "2001:db8::1", "3fff::1", "192.0.2.1",
    "fe80::1", "a::b", "東京都千代田区", "東京都は23区からなる", "大阪府大阪市で2023年に", "100-0001", "図3-1234-5678",
    "user@localhost", "@taro", "00-1234-5678", "03-123-456", "2-1234-5678", "1603-1234-5678", "03-1234-5678-9",
    "神戸市は兵庫県の市", "北海道で3-1で勝った", "午後03時12分",
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
@pytest.mark.parametrize(
    ("before", "behind"), [("", ""), ("連絡先は", "です。"), ("(", ")"), ("TEL: ", "\n"), ("「", "」と")]
)
def test_found_whole(kind: str, text: str, before: str, behind: str) -> None:
    whole = before + text + behind
    found = find_personal(whole)
    assert [(one.kind, whole[one.start : one.stop]) for one in found] == [(kind, text)]
    assert mask_personal(whole, found) == f"{before}<{kind.upper()}>{behind}"


@pytest.mark.parametrize("text", NOTHING)
def test_what_only_looks_like_it(text: str) -> None:
    for before, behind in (("", ""), ("これは", "です。"), ("(", ")")):
        assert find_personal(before + text + behind) == []


def test_numbers_of_sections_are_no_addresses() -> None:
    """As manuals have them: most of what looks like an IPv4 address in Debian's."""
    for text in ("5.10.3.3. wanna-build", "前の行\n 6.6.4.2. 次", "5.2.1.1 依存関係", "(第 5.2.1.1 節)",
                 "12.1.2.1節「脆弱性」", "セクション 5.8.5.4 を", "in the section 3.3.4.2.", "14.3.2.1¶"):  # fmt: skip
        assert find_personal(text) == [], text
    for text in (
        "8.8.8.8",
        "次の\n8.8.8.8\n8.8.4.4\nです",
        "130.89.148.77. これ",
        "130.89.148.77 を使う",
        "DNS は8.8.8.8. ",
    ):
        assert {one.kind for one in find_personal(text)} == {"ipv4"}, text


def test_a_bare_number_that_says_what_it_is() -> None:
    assert [one.kind for one in find_personal("電話:0312345678 FAX 0312345679、番号0312345670")] == ["phone", "phone"]


def test_a_postal_code_before_an_address() -> None:
    text = "〒105-0011 東京都港区芝公園4丁目2-8 電話03-3433-5111 または 105-0011 東京都港区"
    assert [one.kind for one in find_personal(text)] == ["postal_code", "address", "phone", "postal_code"]


@given(st.text("0123456789", min_size=1, max_size=18))
def test_one_check_digit_fits(digits: str) -> None:
    assert sum(luhn(digits + digit) for digit in "0123456789") == 1


@given(st.text("0123456789", min_size=11, max_size=11))
def test_my_number_check_digit(digits: str) -> None:
    weights = [6, 5, 4, 3, 2, 7, 6, 5, 4, 3, 2]  # the ordinance's, from the left
    remainder = sum(int(d) * w for d, w in zip(digits, weights, strict=True)) % 11
    check = "0" if remainder <= 1 else str(11 - remainder)
    assert [d for d in "0123456789" if my_number_check(digits + d)] == [check]


@given(
    st.text(
        st.characters(exclude_categories=["Cs"]) | st.sampled_from("0123456789-.:@ 〒丁目番東京都区０＠"), max_size=80
    )
)
def test_any_text(text: str) -> None:
    assert len(plain(text)) == len(text)
    found = find_personal(text)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(found))
    masked = mask_personal(text, found)
    assert len(masked) == len(text) - sum(f.stop - f.start for f in found) + sum(len(f.kind) + 2 for f in found)


def test_finds_of_an_earlier_kind_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a comparison of each match with every earlier find says it."""
    dice = random.Random(3)
    parts = [
        "a@b.jp",
        "03-1234-5678",
        "192.168.1.1",
        "〒100-0001",
        "4111 1111 1111 1111",
        "2001:db8::1",
        "-",
        " ",
        "1",
        "。",
    ]
    for _ in range(200):
        text = "".join(dice.choices(parts, k=12))
        slow: list[Found] = []
        for kind in KINDS:
            for match in kind.pattern.finditer(plain(text)):
                start, stop = match.span()
                if all(stop <= other.start or other.stop <= start for other in slow) and kind.holds(match):
                    slow.append(Found(kind.name, start, stop))
        assert find_personal(text) == sorted(slow, key=lambda one: one.start)


def test_the_stage_counts_masks_and_drops() -> None:
    documents = [Document("電話は03-1234-5678と090-1234-5678", {"a": 1}), Document("なし")]
    count, mask = (PersonalConfig(kind="pii", mode=mode).build()(documents) for mode in ("count", "mask"))
    assert [verdict.document for verdict in count] == documents
    assert count[0].measures["phone"] == 2
    assert set(count[0].measures) == {kind.name for kind in KINDS}
    assert mask[0].document == Document("電話は<PHONE>と<PHONE>", {"a": 1})
    assert mask[0].measures == count[0].measures
    assert [verdict.reason for verdict in mask] == [None, None]
    for limit, reason in ((0, "personal-data"), (1, "personal-data"), (2, None)):
        drop = PersonalConfig(kind="pii", mode="drop", limit=limit).build()(documents)
        assert [verdict.reason for verdict in drop] == [reason, None]
    only = PersonalConfig(kind="pii", kinds=["email"]).build()(documents)
    assert [verdict.document for verdict in only] == documents
    with pytest.raises(ValidationError, match="limit is for"):
        PersonalConfig(kind="pii", mode="mask", limit=3)
