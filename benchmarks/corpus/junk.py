"""What a crawl has besides text, made up: eleven kinds of pages that a language model should not be trained on.

Each maker takes a generator of random numbers and gives the lines of a page. The words are our own. The twelfth kind,
copies of documents with small changes, needs documents: `near_copy`.
"""

from __future__ import annotations

import base64
import random
from collections.abc import Callable, Sequence

from benchmarks.corpus.pages import paragraphs, sentence, words

_PLACES = words("東京 大阪 名古屋 札幌 福岡 横浜 京都 神戸 仙台 広島 新宿 渋谷 池袋 銀座 梅田 難波 千葉 埼玉 沖縄 金沢")
_GOODS = words(
    "ダイエットサプリ 羽毛布団 浄水器 中古車 腕時計 ソファ 化粧水 青汁 クレジットカード 引越し 格安航空券 英会話 "
    "賃貸マンション 育毛剤 レンタルサーバー パソコン教室 結婚指輪 脱毛サロン 保険 温泉旅館 カニ ウォーターサーバー"
)
_SECTIONS = words(
    "ニュース 天気 スポーツ 芸能 経済 国際 地域 特集 コラム 動画 写真 ランキング 新着 検索 ヘルプ 辞典 占い ブログ "
    "掲示板 住まい 求人 旅行 グルメ 健康 子育て 教育 科学 文化 社会 政治 映画 音楽 ゲーム 本 車 ペット 趣味 園芸 手芸"
)
_PITCHES = (
    "{goods}が今だけ{price}円！送料無料でお届けします。",
    "期間限定キャンペーン実施中！今すぐお申し込みください。",
    "満足度{percent}%の{goods}、お客様の声が続々と届いています！",
    "{place}で{goods}をお探しなら、まずは無料相談・無料見積をご利用ください。",
    "通常価格{price}円のところ、本日限り{percent}%オフのお買い得価格でご提供。",
    "さらに今ならポイント還元{percent}倍！クーポンもプレゼント！",
    "大好評につき在庫わずか！お急ぎください。翌日配送も可能です。",
    "初回限定{price}円、全額返金保証つきで安心してお試しいただけます。",
    "★{goods}ランキング第1位★口コミで話題の{goods}はこちら→",
    "お電話一本で{place}どこでも出張！ご購入はこちら、お問い合わせはこちら。",
)
_STUFFED = (
    "{goods}なら{place}の{goods}専門店。{place}で{goods}といえば{goods}激安通販の当店へ。",
    "{place} {goods} 口コミ、{place} {goods} 比較、{place} {goods} おすすめ、{place} {goods} 安い。",
    "{goods}を探すなら{goods}ナビ！{goods}の{goods}による{goods}のための{goods}情報サイト。",
)
_ABOUT = words("格安 激安 通販 比較 口コミ ランキング おすすめ 人気 評判 料金 相場 中古 無料 即日 求人 予約 送料無料")
_CHINESE = (
    "我们的{a}在{b}得到了很好的{c}，因此{d}的发展非常重要。",
    "{b}的{a}今年增加了{n}个{c}，这是第一次。",
    "如果您想了解更多关于{a}的{c}，请联系{b}的{d}。",
    "随着{a}的提高，{b}和{d}之间的{c}越来越多。",
    "据{b}报道，{a}问题已经由{d}解决，没有影响{c}。",
)
_CHINESE_WORDS = words(
    "技术 经济 公司 产品 服务 时间 北京 上海 学习 市场 政府 管理 工作 研究 质量 教育 环境 系统 城市 文化"
)
_FOREIGN: tuple[tuple[list[str], str], ...] = (
    (words("the a of and to in market people system report water city that which school house about service year good "
           "new because their before under government music table river when small computer company letter"), ". "),
    (words("우리는 서울에서 새로운 회사가 시장을 정부는 사람들이 그리고 학교에 문제를 결과가 오늘 서비스를 있다 된다 "
           "그러나 내일 도시의 물을 책을 읽는다 음악을 좋아한다"), ". "),
    (words("и в на что это был город люди система новый работа время дом вода школа компания потому когда после письмо "
           "большой рынок правительство музыка"), ". "),
    (words("el la de y que en ciudad gente sistema nuevo trabajo tiempo casa agua escuela empresa porque cuando carta "
           "mercado gobierno canción libro"), ". "),
)  # fmt: skip
_NAMES = words("value count index buffer result table node total offset item queue cache width parser token state user")
_COMMENTS = words(
    "値を返す 初期化 配列の大きさを調べる 終わるまで繰り返す 見つからないとき 後で直す 表示する 合計を求める"
)
_BOILERPLATE = (
    "{site}（以下「当サイト」といいます）は、お客様の個人情報の保護を重要な責務と考え、適切な取り扱いに努めます。",
    "当サイトでは、利便性の向上のためにクッキー（Cookie）を使用しています。閲覧を続けると同意したものとみなします。",
    "当サイトに掲載されている文章・画像の無断転載を禁じます。すべての権利は{site}に帰属します。",
    "当サイトの情報を利用したことによるいかなる損害についても、{site}は一切の責任を負いかねますのでご了承ください。",
    "お使いのブラウザではJavaScriptが無効になっています。すべての機能を使うには有効にしてください。",
    "本規約は予告なく変更されることがあります。変更後の規約は、当サイトに掲載された時から効力を生じるものとします。",
    "{site}は、法令に基づく場合を除き、お客様の同意なく第三者に個人情報を提供することはありません。",
    "リンク先のサイトの内容については、当サイトは責任を負いません。ご自身の判断でご利用ください。",
    "お問い合わせへの回答には数日かかることがあります。あらかじめご了承くださいますようお願いいたします。",
    "未成年の方は、保護者の同意を得たうえで当サイトのサービスをご利用ください。",
    "本規約の解釈は日本法に従うものとし、紛争は{site}の所在地を管轄する裁判所を専属的合意管轄とします。",
    "推奨環境以外でご覧になった場合、正しく表示されないことがございます。最新版のブラウザをお使いください。",
)
_WALLS = (
    "この記事は有料会員限定です。残り{n}文字",
    "続きを読むにはログインしてください。",
    "会員登録（無料）すると続きをお読みいただけます。",
    "ここから先は会員限定のコンテンツです。ログインまたは新規登録",
    "続きはアプリでお読みください",
)
_HIRAGANA = [chr(code) for code in range(0x3042, 0x3094)]
_ANY = [*_HIRAGANA, *(chr(code) for code in range(0x30A2, 0x30F4)), *(chr(code) for code in range(0x4E00, 0x5400))]


def navigation(dice: random.Random) -> list[str]:
    """Menus, categories with counts, dates with cut titles, page numbers."""
    lines = [f"{name}（{dice.randrange(1, 500)}）" for name in dice.sample(_SECTIONS, dice.randrange(8, 30))]
    lines += [
        f"{dice.randrange(2010, 2025)}年{dice.randrange(1, 13)}月{dice.randrange(1, 29)}日 {sentence(dice)[:14]}"
        for _ in range(dice.randrange(10, 60))
    ]
    dice.shuffle(lines)
    middle = [f"{dice.choice(_PLACES)}の{name}" for name in dice.sample(_SECTIONS, 12)]
    return [" > ".join(dice.sample(_SECTIONS, 3)), *lines, *middle, "前へ 1 2 3 4 5 6 7 8 9 次へ", "ページの先頭へ"]


def advertisement(dice: random.Random) -> list[str]:
    """Pitches for goods, a few to a line."""
    return ["".join(_filled(dice, dice.choice(_PITCHES)) for _ in range(dice.randrange(1, 5))) for _ in range(12)]


def keywords(dice: random.Random) -> list[str]:
    """Lists of words to be found by, or sentences stuffed with them."""
    if dice.random() < 0.6:
        glue = dice.choice((" ", "、", " / ", "・", "，"))
        own = [*dice.sample(_PLACES, 8), *dice.sample(_GOODS, 8), *_ABOUT]
        return [
            glue.join(dice.choice(own) for _ in range(dice.randrange(10, 60))) for _ in range(dice.randrange(4, 16))
        ]
    place, goods = dice.choice(_PLACES), dice.choice(_GOODS)
    return [dice.choice(_STUFFED).format(place=place, goods=goods) for _ in range(dice.randrange(8, 30))]


def mojibake(dice: random.Random) -> list[str]:
    """Japanese whose bytes were read in the wrong encoding, and saved so."""
    wrote, read = dice.choice((("utf-8", "cp932"), ("utf-8", "latin-1"), ("euc_jp", "cp932"), ("cp932", "latin-1")))
    hole = dice.choice(("?", "・", ""))
    return [
        text.encode(wrote, "replace").decode(read, "replace").replace("\ufffd", hole)
        for text in paragraphs(dice, dice.randrange(4, 14))
    ]


def noise(dice: random.Random) -> list[str]:
    """What machines write: base64, logs, dumps; and random characters, Latin and Japanese."""
    kind = dice.randrange(5)
    count = dice.randrange(15, 50)
    if kind == 0:
        return [base64.b64encode(dice.randbytes(57)).decode() for _ in range(count)]
    if kind == 1:
        return [
            f"2024-0{dice.randrange(1, 10)}-{dice.randrange(10, 29)} {dice.randrange(10, 24)}:{dice.randrange(10, 60)}:"
            f"{dice.randrange(10, 60)} [{dice.choice(('INFO', 'エラー', 'DEBUG'))}] worker-{dice.randrange(32)} "
            f"GET /{dice.choice(_NAMES)}/{dice.randrange(10**6)} {dice.choice((200, 404, 500))} {dice.randrange(900)}ms"
            for _ in range(count)
        ]
    if kind == 2:
        return [f"{row * 16:08x}  {dice.randbytes(16).hex(' ')}" for row in range(count)]
    letters = _HIRAGANA if kind == 3 else _ANY
    return [
        "".join(dice.choice(letters) for _ in range(dice.randrange(15, 60))) + dice.choice("。。、 ")
        for _ in range(count)
    ]


def chinese(dice: random.Random) -> list[str]:
    """Simplified Chinese."""
    return ["".join(_chinese_sentence(dice) for _ in range(dice.randrange(2, 7))) for _ in range(dice.randrange(4, 12))]


def _chinese_sentence(dice: random.Random) -> str:
    a, b, c, d = dice.sample(_CHINESE_WORDS, 4)
    return dice.choice(_CHINESE).format(a=a, b=b, c=c, d=d, n=dice.randrange(2, 300))


def foreign(dice: random.Random) -> list[str]:
    """English, Korean, Russian or Spanish words."""
    vocabulary, stop = dice.choice(_FOREIGN)
    return [
        stop.join(" ".join(dice.choice(vocabulary) for _ in range(dice.randrange(5, 16))) for _ in range(5)) + "."
        for _ in range(dice.randrange(4, 14))
    ]


def code(dice: random.Random) -> list[str]:
    """Functions in something like Python or C, half of them with Japanese comments."""
    mark = dice.choice(("#", "//"))
    lines: list[str] = []
    for number in range(dice.randrange(6, 20)):
        a, b, c = dice.sample(_NAMES, 3)
        comment = f"  {mark} {dice.choice(_COMMENTS)}" if dice.random() < 0.5 else ""
        if mark == "#":
            lines.append(f"def {a}_{number}({b}, {c}={dice.randrange(99)}):{comment}")
            lines.append(f"    if {b} is None:\n        return {c} + {dice.randrange(999)}")
            lines.append(f"    return [{a} for {a} in {b} if {a} != {c}]")
        else:
            lines.append(f"static int {a}_{number}(struct {b} *{b}, int {c}) {{{comment}")
            lines.append(f"    for (int i = 0; i < {c}; i++)\n        {b}->{a}[i] ^= 0x{dice.randrange(1 << 16):04x};")
            lines.append(f"    return {b}->{c};\n}}")
    return [part for line in lines for part in line.split("\n")]


def numbers(dice: random.Random) -> list[str]:
    """A table of prices, or of results, under Japanese heads."""
    if dice.random() < 0.5:
        head = "日付 始値 高値 安値 終値 出来高 前日比"
        rows = [
            f"{dice.randrange(2000, 2025)}/{dice.randrange(1, 13):02}/{dice.randrange(1, 29):02} "
            + " ".join(f"{dice.randrange(100, 99999):,}" for _ in range(5))
            + f" {dice.choice('▲+')}{dice.random() * 9:.2f}%"
            for _ in range(dice.randrange(20, 80))
        ]
    else:
        head = "順位 チーム 試合 勝 敗 引分 得点 失点 勝率"
        rows = []
        for row in range(1, dice.randrange(20, 60)):
            results = " ".join(str(dice.randrange(90)) for _ in range(6))
            rows.append(f"{row} {dice.choice(_PLACES)} {results} .{dice.randrange(999):03}")
    return [head, *rows]


def half(dice: random.Random) -> list[str]:
    """The beginning of an article before a wall, or a list of beginnings, all cut within a sentence."""
    wall = dice.choice(_WALLS).format(n=f"{dice.randrange(200, 4000):,}")
    if dice.random() < 0.5:
        text = "".join(sentence(dice) for _ in range(dice.randrange(2, 9)))
        return [text[: -dice.randrange(4, 12)] + dice.choice(("…", "……", "...", "")), wall]
    return [
        line
        for _ in range(dice.randrange(6, 25))
        for line in ((sentence(dice) + sentence(dice))[: dice.randrange(20, 45)] + "…", "続きを読む")
    ] + [wall]


def boilerplate(dice: random.Random) -> list[str]:
    """Terms and notices, the same on every site but for its name."""
    site = f"{dice.choice(_PLACES)}{dice.choice(_SECTIONS)}{dice.choice(('ネット', 'ナビ', 'の部屋', 'オンライン'))}"
    return [text.format(site=site) for text in dice.sample(_BOILERPLATE, dice.randrange(7, 12))]


def _filled(dice: random.Random, pitch: str) -> str:
    price, percent = f"{dice.randrange(10, 998) * 100:,}", dice.randrange(3, 99)
    return pitch.format(goods=dice.choice(_GOODS), place=dice.choice(_PLACES), price=price, percent=percent)


def near_copy(dice: random.Random, lines: Sequence[str]) -> list[str]:
    """The lines of a document as another site has them: a line more, some less, a few characters changed."""
    out = [f"{dice.choice(_SECTIONS)}より転載（{dice.randrange(2010, 2025)}年）"]
    for line in lines:
        chance = dice.random()
        if chance < 0.02:
            continue
        if chance < 0.06 and len(line) > 20:
            at = dice.randrange(len(line) - 2)
            line = line[:at] + line[at + 2 :]
        elif chance < 0.10:
            line = line.replace("。", "．").replace("1", "2")
        out.append(line)
    return out


KINDS: dict[str, Callable[[random.Random], list[str]]] = {
    "navigation": navigation,
    "advertisement": advertisement,
    "keywords": keywords,
    "mojibake": mojibake,
    "noise": noise,
    "chinese": chinese,
    "foreign": foreign,
    "code": code,
    "numbers": numbers,
    "half": half,
    "boilerplate": boilerplate,
}
"""The makers by the kind that the URL of a page says."""
LINKED = ("navigation",)
"""The kinds whose lines are links."""
