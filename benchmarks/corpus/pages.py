"""Japanese pages made up from a small grammar, in the encodings of the web, with right and wrong declarations.

The same seed gives the same pages. The sentences mean little; their characters are what pages have: kana and common
kanji, katakana words, Latin words, digits, now and then half-width kana or circled digits.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

ENCODINGS = ("utf-8", "cp932", "euc_jp", "iso2022_jp", "utf-16-le")
"""By Python's names."""
WEB_NAMES = {"utf-8": "UTF-8", "cp932": "Shift_JIS", "euc_jp": "EUC-JP", "iso2022_jp": "ISO-2022-JP",
             "utf-16-le": "UTF-16"}  # fmt: skip


def words(text: str) -> list[str]:
    """What lies between spaces."""
    return text.split()


_WHO = words(
    "私 彼女 市役所 先生 利用者 研究者 会社 村の人々 弟 観光客 編集部 "
    "子どもたち 農家 店長 委員会 祖母 船長 学生 新聞 大臣"
)
_WHAT = words(
    "資料 写真 データ 建物 温泉 予算 計画 コンピューター 魚 手紙 ニュース 道路 作品 歴史 料理 言葉 ソフトウェア 契約 "
    "地図 音楽 サービス 薬 橋 桜 電車 問題 結果 規則 天気 映画 辞書 サーバー 経験 技術 窓口 交通 品質 環境 制度 野菜"
)
_WHERE = words(
    "東京 京都の町 駅前 図書館 海岸 インターネット 県内 北海道 会議室 学校 工場 山の上 ホームページ 病院 公園 九州"
)
_WHEN = words("昨日 今年の春 毎朝 平成二十年 来週 戦後 二〇一五年 夏休み 先月 土曜日 そのころ 午後三時 これまで")
_HOW = words("少しずつ くわしく 静かに とても早く ていねいに はじめて ふたたび あわてて 正確に 安く みんなで")
_DOES = words(
    "調べました 見つけた 作っています 説明する 届けた 変更しました 楽しんでいる 知らせてください 考えた 集めている "
    "売りました 守らなければならない 探しています 書きました 使えるようになった 忘れていた 発表した 比べてみた"
)
_PATTERNS = (
    "{when}、{who}は{where}で{what}を{how}{does}。",
    "{where}の{what}について、{who}が{does}。",
    "{what}と{what2}を{does}のは{who}である。",
    "「{what}は{how}{does}」と{who}は言った。",
    "なお、{what}の{what2}は{when}から{where}へ移ります（{who}による）。",
    "{who}の{what}、{when}に{number}件。",
    "{latin}で{what}を{does}場合は、{number}ページを見てください。",
    "{where}には{what}があるので、{who}も{how}{does}。",
)
_LATIN = words("Windows Linux JR NHK API Web HTML Tokyo Excel e-mail CD-ROM")
_MENU = words("ホーム 会社概要 お知らせ サイトマップ お問い合わせ 採用情報 アクセス リンク集 個人情報保護方針 ログイン")
_HALF_WIDTH = words("ｶﾀｶﾅ ﾆｭｰｽ ﾒｰﾙ ﾍﾟｰｼﾞ ｻｰﾋﾞｽ ﾃﾞｰﾀ")
# In Windows' tables, though not in JIS X 0208.
_VENDOR = "①②③㈱㌔№℡"


def sentence(dice: random.Random) -> str:
    """One sentence."""
    return dice.choice(_PATTERNS).format(
        who=dice.choice(_WHO),
        what=dice.choice(_WHAT),
        what2=dice.choice(_WHAT),
        where=dice.choice(_WHERE),
        when=dice.choice(_WHEN),
        how=dice.choice(_HOW),
        does=dice.choice(_DOES),
        number=dice.randrange(1, 3000),
        latin=dice.choice(_LATIN),
    )


def paragraphs(dice: random.Random, count: int) -> list[str]:
    """Some paragraphs of two to eight sentences."""
    return ["".join(sentence(dice) for _ in range(dice.randrange(2, 9))) for _ in range(count)]


@dataclass(frozen=True)
class MadePage:
    """A page: its bytes, what the server says, and the truth."""

    data: bytes
    content_type: str
    encoding: str
    html: str
    """What a reader should see in the bytes."""
    kind: str
    """What is hard about it: `plain`, `short`, `menu`, `half-width`, `vendor`, `latin`, `cut`."""
    declared: str
    """`none`, `right` or `wrong`."""


_KINDS = (("plain", 10), ("short", 2), ("menu", 2), ("half-width", 1), ("vendor", 1), ("latin", 2), ("cut", 1))


def made_pages(count: int, seed: int) -> Iterator[MadePage]:
    """Pages in turn over the encodings, kinds and declarations by chance."""
    dice = random.Random(seed)
    kinds = [kind for kind, weight in _KINDS for _ in range(weight)]
    for number in range(count):
        encoding = ENCODINGS[number % len(ENCODINGS)]
        kind = dice.choice(kinds)
        while kind == "vendor" and encoding in ("euc_jp", "iso2022_jp"):  # Python cannot write them there
            kind = dice.choice(kinds)
        yield made_page(dice, encoding, kind, dice.choice(("none", "right", "wrong")))


def made_page(dice: random.Random, encoding: str, kind: str, declared: str) -> MadePage:
    """One page of a kind, in an encoding, with a declaration in the page, in the header or in both."""
    said = {
        "none": "",
        "right": WEB_NAMES[encoding],
        "wrong": WEB_NAMES[dice.choice([name for name in ENCODINGS if name != encoding])],
    }[declared]
    where = dice.choice(("page", "header", "both"))
    html = html_of(dice, kind, said if where != "header" else "")
    data = encode(html, encoding)
    if kind == "cut":
        data = data[: len(data) - dice.randrange(1, 4)]
        html = data.decode("iso2022_jp_ext" if encoding == "iso2022_jp" else encoding, "ignore")
    elif encoding.startswith("utf-16") and dice.random() < 0.5:
        data = b"\xff\xfe" + data
    header = f"text/html; charset={said}" if said and where != "page" else "text/html"
    return MadePage(data, header, encoding, html, kind, declared)


def encode(html: str, encoding: str) -> bytes:
    """The bytes of a page; half-width kana in ISO-2022-JP as mail programs write them."""
    return html.encode("iso2022_jp_ext" if encoding == "iso2022_jp" else encoding)


def html_of(dice: random.Random, kind: str = "plain", charset: str = "") -> str:
    """The page's source: a title, a menu, paragraphs, a footer."""
    if kind == "short":
        body = [f"<p>{sentence(dice)[:8]}</p>"]
    elif kind == "menu":
        body = [f"<li><a href='/{n}.html'>{name}</a></li>" for n, name in enumerate(dice.sample(_MENU, 7))]
    elif kind == "latin":
        latin = " ".join(dice.choice(_LATIN) for _ in range(300))
        body = [f"<p>{latin}</p><p>{sentence(dice)}</p>"]
    else:
        body = [f"<p>{text}</p>" for text in paragraphs(dice, dice.randrange(3, 12))]
    if kind == "half-width":
        body.insert(0, f"<p>{' '.join(dice.sample(_HALF_WIDTH, 3))}</p>")
    if kind == "vendor":
        body.insert(0, f"<p>{''.join(dice.sample(_VENDOR, 3))}</p>")
    meta = f'<meta http-equiv="Content-Type" content="text/html; charset={charset}">' if charset else ""
    menu = "".join(f"<li><a href='/m{n}'>{name}</a></li>" for n, name in enumerate(dice.sample(_MENU, 4)))
    title = sentence(dice).rstrip("。")
    return (
        f"<html lang='ja'><head>{meta}<title>{title}</title><style>p {{ margin: 1em }}</style>"
        f"<script>var x = {dice.randrange(1000)};</script></head><body><nav><ul>{menu}</ul></nav>\n"
        f"<main><h1>{title}</h1>\n{chr(10).join(body)}\n</main><footer>Copyright 2024 Example</footer></body></html>"
    )
