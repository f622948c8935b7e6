"""What personal data looks like in Japanese text: patterns, check digits, and what only looks like it.

Patterns run over ``plain(text)``, in which full-width forms are half-width: character for character, so that a place in
one is the place in the other.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

_HYPHENS = "‐‑‒–—―−－ｰ﹣⁃"
_PLAIN = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)} | dict.fromkeys(_HYPHENS, "-")
_PLAIN |= {"\u3000": " ", "\uff61": "。"}
_NOT_PLAIN = re.compile(f"[{''.join(_PLAIN)}]")


def plain(text: str) -> str:
    """``text`` with full-width ASCII and all kinds of hyphens as ASCII; as long as it was."""
    return _NOT_PLAIN.sub(lambda found: _PLAIN[found[0]], text)  # str.translate looks every character up


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def my_number_check(digits: str) -> bool:
    """Whether the last of 12 digits is the check digit of an individual number.

    Ordinance No. 85 of the Ministry of Internal Affairs and Communications (2014), article 5: 11 - (sum of P_n Q_n mod
    11), or 0 where the remainder is 0 or 1; P_n the n-th digit from the right without the check digit, Q_n = n + 1 for
    n up to 6, and n - 5 from 7 on.
    """
    total = sum(int(digit) * (n + 1 if n <= 6 else n - 5) for n, digit in enumerate(reversed(digits[:-1]), 1))
    remainder = total % 11
    return int(digits[-1]) == (0 if remainder <= 1 else 11 - remainder)


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _is_card(found: re.Match[str]) -> bool:
    """A length and first digits that an issuer uses (ISO/IEC 7812 ranges as the schemes publish them), and Luhn's."""
    digits = _digits(found[0])
    first4 = int(digits[:4])
    size = len(digits)
    known = (
        (digits[0] == "4" and size in (13, 16, 19))  # Visa
        or (size == 16 and (51 <= first4 // 100 <= 55 or 2221 <= first4 <= 2720))  # Mastercard
        or (size == 15 and first4 // 100 in (34, 37))  # American Express
        or (size == 16 and 3528 <= first4 <= 3589)  # JCB
        or (size == 14 and (300 <= first4 // 10 <= 305 or first4 // 100 in (36, 38, 39)))  # Diners Club
        or (size == 16 and (first4 == 6011 or first4 // 100 == 65 or 644 <= first4 // 10 <= 649))  # Discover
    )
    return known and luhn(digits)


_MINUTE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])[0-5]\d")


def _is_my_number(found: re.Match[str]) -> bool:
    """The check digit fits, and it is no time written as year to minute."""
    digits = _digits(found[0])
    return my_number_check(digits) and not (found[0] == digits and _MINUTE.fullmatch(digits))


_VERSION = re.compile(r"(?:(?<![A-Za-z])(?:v|ver|version|rel|release|rev)\.?|バージョン|版数|リリース|第)[ :=]*$", re.I)


_SECTION = re.compile(r"(?:セクション|(?<![A-Za-z])sections?|(?<![A-Za-z])chapter|[§章節図表例])[ :=]*$", re.I)
# Behind the number of a heading: a full stop, or a title; of a reference: the word for a section.
_TITLED = re.compile(r"\.(?: |$)|[ \t]+\S|¶", re.M)
_LARGEST_SECTION = 40  # what is above it numbers no section
_MARKS_SECTION = re.compile(r" ?[節章項条]")


def _is_section(found: re.Match[str], before: str) -> bool:
    """The number of a heading (at the beginning of a line), or of a section that the text speaks of."""
    text = found.string
    if max(map(int, found[0].split("."))) > _LARGEST_SECTION:
        return False
    if _SECTION.search(before) or _MARKS_SECTION.match(text, found.end()):
        return True
    begins = not before.rpartition("\n")[2].strip() and (found.start() - len(before) == 0 or "\n" in before)
    return begins and _TITLED.match(text, found.end()) is not None


def _is_ipv4(found: re.Match[str]) -> bool:
    """An address that the internet routes, and not behind what makes it a version, nor the number of a section."""
    before = found.string[max(0, found.start() - 16) : found.start()]
    if _VERSION.search(before) or re.search(r"\w[/_-]$", before) or _is_section(found, before):
        return False
    try:
        return ipaddress.IPv4Address(found[0]).is_global
    except ValueError:  # above 255, or a zero in front
        return False


# For examples; the standard library knows the older 2001:db8::/32.
_EXAMPLES = ipaddress.IPv6Network("3fff::/20")  # RFC 9637


def _is_ipv6(found: re.Match[str]) -> bool:
    """A global unicast address (2000::/3, RFC 4291) that is not for examples: C++ names and times are none."""
    try:
        address = ipaddress.IPv6Address(found[0])
    except ValueError:
        return False
    return int(address) >> 125 == 1 and address.is_global and address not in _EXAMPLES


def _is_phone(found: re.Match[str]) -> bool:
    """As many digits as the numbering plan has: 11 behind 050, 060, 070, 080, 090 and 0800, else 10."""
    digits = _digits(found[0])
    if found[0].startswith("+"):
        digits = "0" + digits[2:].removeprefix("0")
    return len(digits) == (11 if re.match(r"0[5-9]0|0800", digits) else 10)


def _always(found: re.Match[str]) -> bool:
    return True


@dataclass(frozen=True)
class Kind:
    """A kind of personal data: candidates, and which of them are it."""

    name: str
    pattern: re.Pattern[str]
    holds: Callable[[re.Match[str]], bool] = _always
    needs: str = ""
    """What a text must have for the pattern to be looked for."""


# Every pattern begins with a set of characters, or with alternatives that each begin with one character: re then looks
# for those in one fast loop. What must not stand before is therefore asked behind the first character, of it as well.
def _free_before(first: str) -> str:
    """``first``, a character or a set, with no digit before it, nor a digit behind one separator: parts of longer
    numbers are left alone."""
    return rf"{first}(?<!\d{first})(?<!\d[-.,/]{first})"


_FREE_BEHIND = r"(?!\d)(?![-.,/]\d)"
_SEPARATOR = r"(?:-|ー| - | )"
_NUMERAL = r"[\d〇一二三四五六七八九十]"
_PREFECTURES = (
    "北海道|東京都|京都府|大阪府|青森県|岩手県|宮城県|秋田県|山形県|福島県|茨城県|栃木県|群馬県|埼玉県|千葉県|神奈川県|新潟県|富山県|"
    "石川県|福井県|山梨県|長野県|岐阜県|静岡県|愛知県|三重県|滋賀県|兵庫県|奈良県|和歌山県|鳥取県|島根県|岡山県|広島県|山口県|徳島県|"
    "香川県|愛媛県|高知県|福岡県|佐賀県|長崎県|熊本県|大分県|宮崎県|鹿児島県|沖縄県"
)
_TOWN = r"(?:[\u4e00-\u9fff々ァ-ヺー]|[のがつけ](?=[\u4e00-\u9fff]))"

_EMAIL = r"(?<![\w.%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"
_CARD = r"(?:\d{12,18}|\d{3}([- ])\d{4}\1\d{4}\1\d{1,4}|\d{3}([- ])\d{6}\2\d{4,5})"
_MY_NUMBER = r"(?:\d{11}|\d{3}([- ])\d{4}\1\d{4})"
_IPV4 = r"\d(?<![\d.]\d)\d{0,2}(?:\.\d{1,3}){3}(?!\d)(?!\.\d)"
_IPV6 = r"[0-9A-Fa-f](?<![\w:][0-9A-Fa-f])[0-9A-Fa-f]{0,3}:[0-9A-Fa-f:]{2,34}(?![\w:])"
_SAYS_PHONE = "|".join(f"(?<={word}{mark}0)" for word in ("電話", "TEL", "Tel", "FAX", "Fax") for mark in ("", "[: .]"))
_PHONES = {  # by their first character
    "0": (
        rf"[1-9]\d{{0,3}}{_SEPARATOR}\d{{1,4}}{_SEPARATOR}\d{{3,4}}",
        r"[1-9]\d{0,3} ?\(\d{1,4}\) ?\d{4}",
        r"[5-9]0\d{8}",  # without anything between: mobile and the like, the others only where it says what they are
        rf"(?:{_SAYS_PHONE})[1-9]\d{{8}}",
    ),
    r"\(": (rf"0[1-9]\d{{0,3}}\) ?\d{{1,4}}{_SEPARATOR}\d{{4}}",),
    r"\+": (r"81[- ]?(?:\(0\))?\d{1,4}[- ]?\d{1,4}[- ]?\d{4}",),
}
_PHONE = "|".join(f"{_free_before(first)}(?:{'|'.join(rest)}){_FREE_BEHIND}" for first, rest in _PHONES.items())
_POSTAL_CODE = (
    r"[〒郵\d](?:(?:(?<=〒)|(?<=郵)便番号 ?:?) ?\d{3}-?\d{4}(?![-\d])"
    rf"|(?<=\d)(?<!\d\d)(?<!\d[-.,/]\d)\d{{2}}-\d{{4}}(?= ?(?:{_PREFECTURES})))"
)
_CITY = rf"(?:{_TOWN}{{1,10}}?[市区町村郡]){{1,3}}"
_ADDRESS = (  # after a name with hiragana, which might be a sentence, only what is hardly anything but an address
    rf"{_CITY}(?:{_TOWN}|[ぁ-ん]){{0,12}}?"
    rf"(?:{_NUMERAL}{{1,4}}丁目(?: ?{_NUMERAL}{{1,4}}(?:番地?|-)(?:の?{_NUMERAL}{{1,4}}号?)?)?"
    rf"|{_NUMERAL}{{1,4}}番地(?:の?{_NUMERAL}{{1,4}}号?)?|\d{{1,4}}-\d{{1,4}}-\d{{1,4}})(?![\d-])",
    rf"{_CITY}{_TOWN}{{0,12}}?(?:{_NUMERAL}{{1,4}}番(?:{_NUMERAL}{{1,4}}号)?|\d{{1,4}}-\d{{1,4}})(?![\d-])",
)

# In this order: what an earlier kind has found is not looked at again.
KINDS = (
    Kind("email", re.compile(_EMAIL, re.ASCII), needs="@"),
    Kind("card", re.compile(_free_before(r"\d") + _CARD + _FREE_BEHIND, re.ASCII), _is_card),
    Kind("my_number", re.compile(_free_before(r"\d") + _MY_NUMBER + _FREE_BEHIND, re.ASCII), _is_my_number),
    Kind("ipv4", re.compile(_IPV4, re.ASCII), _is_ipv4),
    Kind("ipv6", re.compile(_IPV6, re.ASCII), _is_ipv6, needs=":"),
    Kind("phone", re.compile(_PHONE, re.ASCII), _is_phone),
    Kind("postal_code", re.compile(_POSTAL_CODE, re.ASCII)),
    Kind("address", re.compile(f"(?:{_PREFECTURES})(?:{'|'.join(_ADDRESS)})")),
)
