"""Templates of wikitext that show names, words of other languages and dates.

A function takes (arguments, name of the template in lower case) and returns the text, or None for a hole.
Ages are not computed.
"""

from __future__ import annotations

import datetime
import re

from babel import Locale
from babel.core import get_global
from babel.dates import format_date, format_skeleton

from data_prep.sources.template_arguments import Arguments, locale, template_data


def country(code: str, language: str) -> str:
    """The country of a three-letter code (ISO 3166 or the Olympic one) in the wiki's language, "" for no such code."""
    found = template_data()["country_codes"].get(code) or next(iter(get_global("territory_aliases").get(code, [])), "")
    return found if len(found) != 2 else locale(language).territories.get(found, "")


def hole(arguments: Arguments, name: str) -> None:
    """Text that only MediaWiki can make."""


def ship(arguments: Arguments, name: str) -> str | None:
    """{{ship|HMS|Hood|51}}: "HMS Hood"."""
    prefix, own = arguments.first("1"), arguments.first("2")
    if own and arguments.first("4", "format") in ("2", "3"):
        return own
    return f"{prefix} {own}".strip() or None


def ship_of(prefix: str, arguments: Arguments) -> str | None:
    """{{HMS|Hood|51}}: "HMS Hood"."""
    own = arguments.first("1")
    return own if arguments.first("3", "format") in ("2", "3") else f"{prefix} {own}" if own else None


def flag(arguments: Arguments, name: str) -> str | None:
    """{{flag|France}}, {{flag|FRA}}: the country."""
    text = arguments.first("name", "1").replace("_", " ")
    return country(text, arguments.language) or text if re.fullmatch(r"[A-Z]{3}", text) else text or None


def interlanguage(arguments: Arguments, name: str) -> str | None:
    """{{ill|Name|de|Ziel}}: "Name"; in old articles the language comes first."""
    values = arguments.unnamed()
    if label := arguments.first("lt", "display", "label", "text"):
        return label
    if len(values) > 1 and values[0] in Locale("en").languages:
        return values[1] or None
    return arguments.first("1") or None


def nihongo(arguments: Arguments, name: str) -> str | None:
    """{{nihongo|Tokyo|東京|Tōkyō}}: "Tokyo (東京, Tōkyō)"."""
    shown, native, latin, extra, more = (arguments.first(str(number)) for number in range(1, 6))
    if arguments.yes("lead"):
        native, latin = native and f"Japanese: {native}", latin and f"Hepburn: {latin}"
    inside = "; ".join(
        part for part in (", ".join(part for part in (native, latin) if part), arguments.first("extra") or extra) if part
    )
    text = f"{shown} ({inside})" if shown and inside else shown or inside
    return " ".join(part for part in (text, arguments.first("extra2") or more) if part) or None


def nihongo3(arguments: Arguments, name: str) -> str | None:
    """{{nihongo3|Tokyo|東京|Tōkyō}}: "Tōkyō (東京, Tokyo)"."""
    meaning, native, latin = (arguments.first(str(number)) for number in range(1, 4))
    inside = ", ".join(part for part in (native, meaning) if part)
    return f"{latin} ({inside})" if latin and inside else latin or inside or None


def zh(arguments: Arguments, name: str) -> str | None:
    """{{zh|s=中国|t=中國|p=Zhōngguó}}: "simplified Chinese: 中国; traditional Chinese: 中國; pinyin: Zhōngguó"."""
    keys = {"c": "Chinese", "s": "simplified Chinese", "t": "traditional Chinese", "p": "pinyin", "hp": "pinyin",
            "w": "Wade–Giles", "j": "Jyutping", "cy": "Cantonese Yale", "poj": "Pe̍h-ōe-jī", "l": "lit."}  # fmt: skip
    found = {key: arguments.first(key) for key in keys}
    labelled = arguments.language in ("en", "") and arguments.first("labels") not in ("no", "n")
    parts = [f"{keys[key]}{': ' if key != 'l' else ' '}{value}" if labelled else value for key, value in found.items() if value]
    if not parts and arguments.first("1"):
        return language_label(arguments, "zh", arguments.first("1"))
    return "; ".join(parts) or None


def korean(arguments: Arguments, name: str) -> str | None:
    """{{Korean|hangul=서울|rr=Seoul}}: "Korean: 서울; RR: Seoul"."""
    keys = {"hangul": "Korean", "1": "Korean", "hanja": "Hanja", "rr": "RR", "mr": "MR", "lk": "lit."}
    parts = [f"{label}: {value}" for key, label in keys.items() if (value := arguments.first(key))]
    return "; ".join(parts) or None


def langx(arguments: Arguments, name: str) -> str | None:
    """{{langx|fr|mot}}: "French: mot"."""
    return language_label(arguments, arguments.first("1"), arguments.first("2"))


def german_language(arguments: Arguments, name: str) -> str | None:
    """{{enS|word}}: "englisch word"."""
    language = locale("de").languages.get(name[:2], "").lower()
    return f"{language} {arguments.first('1')}".strip() if arguments.first("1") else None


def language_label(arguments: Arguments, code: str, text: str) -> str | None:
    """The text with the name of its language in front, as {{lang-fr}} shows it in the wiki's language."""
    if not text:
        return None
    label = template_data()["language_labels"].get(arguments.language)
    named = locale(arguments.language).languages.get(code.lower().replace("-", "_"))
    meaning = arguments.first("lit")
    text += f", lit. ‘{meaning}’" if meaning else ""
    return label.format(named) + text if label and named and arguments.first("label") not in ("none", "no") else text


def _date(year: str, month: str, day: str, language: str, day_first: bool) -> str | None:
    """A date in the words of the language; None if it is none."""
    if not (year.isdecimal() and 0 < int(year) < 10000):
        return None
    if not month:
        return year
    if not (month.isdecimal() and 0 < int(month) < 13 and (not day or (day.isdecimal() and 0 < int(day) < 32))):
        return None
    chosen = locale(language)
    try:
        date = datetime.date(int(year), int(month), int(day or 1))
    except ValueError:
        return None
    if not day:
        return format_skeleton("yMMMM", date, locale=chosen).removesuffix(" г.").removesuffix(" р.")
    if chosen.language == "en" and day_first:
        return format_date(date, "d MMMM y", locale=chosen)
    text = format_date(date, "long", locale=chosen).removesuffix(" г.").removesuffix(" р.")
    return f"1er{text[1:]}" if chosen.language == "fr" and text.startswith("1 ") else text


def date(arguments: Arguments, name: str) -> str | None:
    """{{birth date|1809|2|12}}: "February 12, 1809" in English. Ages are not computed."""
    year, month, day = (arguments.first(str(number)) for number in range(1, 4))
    if not year.isdecimal():
        return year or None
    return _date(year, month, day, arguments.language, arguments.yes("df") or arguments.first("df") == "dmy")


def date_dmy(arguments: Arguments, name: str) -> str | None:
    """{{date|1|mai|1900}}: day, month, year; also with the year first or in one piece."""
    values = [value for value in arguments.unnamed()[:3] if value]
    if len(values) < 2:
        return values[0] if values else None
    if len(values[0]) == 4 and values[0].isdecimal():
        values.reverse()
    numbers = [value for value in values if value.isdecimal()]
    if len(values) == 3 and len(numbers) == 3:
        return _date(values[2], values[1], values[0], arguments.language, True)
    if len(numbers) == len(values):
        return _date(values[1], values[0], "", arguments.language, True)
    if arguments.language == "fr" and values[0] == "1":
        values[0] = "1er"
    return (" de " if arguments.language in ("es", "pt", "ca") else " ").join(values)


def dts(arguments: Arguments, name: str) -> str | None:
    """{{dts|1999|5|3}}, {{dts|3 May 1999}}."""
    values = [value for value in arguments.unnamed()[:3] if value]
    if len(values) > 1 and all(value.isdecimal() for value in values):
        return _date(values[0], values[1], values[2] if len(values) > 2 else "", arguments.language, False)
    return " ".join(values) or None


def as_of(arguments: Arguments, name: str) -> str | None:
    """{{as of|2014|5|lc=y}}: "as of May 2014"."""
    if alternative := arguments.first("alt"):
        return alternative
    year, month, day = (arguments.first(str(number)) for number in range(1, 4))
    when: str | None = " ".join(part for part in (day, month, year) if part)
    if all(part.isdecimal() for part in (year, month, day) if part):
        when = _date(year, month, day, arguments.language, arguments.first("df") != "US")
    if not when:
        return None
    word = "Since" if arguments.yes("since") else "As of"
    return f"{word.lower() if arguments.yes('lc') else word} {when}"


def music(arguments: Arguments, name: str) -> str | None:
    """{{music|flat}}: "♭"."""
    signs = {
        "flat": "♭",
        "b": "♭",
        "sharp": "♯",
        "#": "♯",
        "natural": "♮",
        "n": "♮",
        "doubleflat": "𝄫",
        "bb": "𝄫",
        "doublesharp": "𝄪",
    }
    return signs.get(arguments.first("1").lower())


def bible(arguments: Arguments, name: str) -> str | None:
    """{{bibleverse|1|John|3:16|KJV}}: "1 John 3:16"."""
    values = [value for value in arguments.unnamed() if value]
    verses = [place for place, value in enumerate(values) if place and value[0].isdigit()]
    return " ".join(values[: verses[-1] + 1] if verses else values) or None
