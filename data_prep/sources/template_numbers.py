"""Templates of wikitext that show numbers: measures, uncertainties, fractions, formulas.

A function takes (arguments, name of the template in lower case) and returns the text, or None for a hole: what it does not
understand is never shown half. Conversions and other computed values are not computed.
"""

from __future__ import annotations

import re

from babel.numbers import get_decimal_symbol

from data_prep.sources.raised import subscript, superscript
from data_prep.sources.template_arguments import Arguments, locale, template_data

_DIGITS = re.compile(r"[-+−–]?\d[\d,.\u00a0  ']*")
_VALUE = re.compile(r"[-+−–~<>≈]?\s*\d[\d,.  ]*(?:\(\d+\))?(?:[eE][-+]?\d+)?|[-+−]?(?:\d+[-+ ])?\d+//?\d+")
_FRACTION = re.compile(r"([-−]?)(?:(\d+)[+ -])?(\d+)//?(\d+)")


def localised(number: str, language: str) -> str:
    """A number with the decimal point of the language; nothing else of it is changed."""
    if re.fullmatch(r"[-+−]?\d+\.\d+", number) and get_decimal_symbol(locale(language)) == ",":
        return number.replace(".", ",")
    return number


def formatnum(arguments: Arguments, name: str) -> str | None:
    """{{formatnum|1234.5}}: digits as they are written, with the language's decimal point."""
    return localised(arguments.first("1"), arguments.language) or None


def _number(text: str) -> str | None:
    """A value of {{convert}} or {{val}} as text, None if it is none: 1+3/4 is "1 3/4" and 5e6 "5×10^6"."""
    if match := _FRACTION.fullmatch(text):
        sign, whole, upper, lower = match.groups()
        return f"{sign}{whole} {upper}/{lower}" if whole else f"{sign}{upper}/{lower}"
    if not _VALUE.fullmatch(text):
        return None
    base, _, exponent = text.replace("E", "e").partition("e")
    return f"{base}×10^{exponent.lstrip('+')}" if exponent else base.strip()


def _unit(code: str, amount: str) -> str | None:
    """The name or symbol of a unit of {{convert}}; None for what is none."""
    scale = next(
        (key for key in sorted(template_data()["scales"], key=len, reverse=True) if re.match(rf"{key}[^\d.e]", code)), ""
    )
    rest = code.removeprefix(scale)
    if not rest or _DIGITS.fullmatch(rest) or re.search(r"[|{}=]", rest):
        return None
    unit = template_data()["units"].get(rest, rest)
    if amount == "1" and unit in ("acres", "miles", "inches", "furlongs", "fathoms", "long tons", "short tons", "chains"):
        unit = {"inches": "inch"}.get(unit, unit.removesuffix("s"))
    return f"{template_data()['scales'][scale]} {unit}" if scale else unit


def convert(arguments: Arguments, name: str) -> str | None:
    """{{convert|5|to|10|km|mi}}: "5 to 10 km", {{convert|5|ft|6|in|cm}}: "5 ft 6 in". The converted value is not computed."""
    if re.search(r"out|number|only", arguments.first("disp")) or arguments.first("input"):
        return None
    values = [value for value in arguments.unnamed() if value]
    if not values or (amount := _number(values[0])) is None:
        return None
    text, place = amount, 1
    while (
        place + 1 < len(values)
        and values[place] in template_data()["ranges"]
        and (following := _number(values[place + 1])) is not None
    ):
        text += template_data()["ranges"][values[place]] + following
        place += 2
    if place >= len(values) or (unit := _unit(values[place], text)) is None:
        return None
    if values[place] in template_data()["ranges"] and values[place] != "a":
        return None
    text += unit if unit in ("°", "%", "′", "″") or unit.startswith("/") else f" {unit}"
    while place + 2 < len(values) and [values[place], values[place + 2]] in template_data()["unit_pairs"]:
        if (smaller := _number(values[place + 1])) is None:
            return None
        text += f" {smaller} {_unit(values[place + 2], smaller)}"
        place += 2
    middle = arguments.first("adj")
    if middle in ("mid", "pre") and values[-1] not in (values[place], values[0]) and re.search(r"[^\W\d]", values[-1]):
        text = f"{text}{values[-1] if values[-1].startswith('-') else ' ' + values[-1]}" if middle == "mid" else text
    return text


def val(arguments: Arguments, name: str) -> str | None:
    """{{val|3.2|e=5|u=m}}: "3.2×10^5 m"; uncertainties as (5), ±0.1 or +0.2 −0.1."""
    values = [value for value in arguments.unnamed() if value]
    exponent = arguments.first("e", "10")
    if not values:
        return f"10^{exponent}" if exponent else None
    text, rest = _number(values[0]), values[1:]
    if text is None:
        return None
    while len(rest) > 1 and rest[0] in template_data()["ranges"] and (following := _number(rest[1])) is not None:
        text, rest = text + template_data()["ranges"][rest[0]] + following, rest[2:]
    if rest:
        signs = [value[0] if value[0] in "+-−–" else "" for value in rest]
        digits = [value.lstrip("+-−–") for value in rest]
        if len(rest) > 2 or not all(re.fullmatch(r"[\d.,]+|\([\d.,]+\)", value) for value in digits):
            return None
        if len(rest) == 2:
            text = f"{text} (+{digits[0]} −{digits[1]})"
        elif digits[0].startswith("("):
            text += digits[0]
        elif signs[0]:
            return None
        else:
            text = f"{text}±{digits[0]}"
        text = f"({text})" if exponent and "±" in text else text
    text += f"×10^{exponent}" if exponent else ""
    text = arguments.first("p", "pre") + text + arguments.first("s", "suf")
    unit, per = arguments.first("ul", "u"), arguments.first("upl", "up")
    text += "" if not unit else unit if unit[0] in "%°′″‰" and len(unit) == 1 else f" {unit}"
    return text + (f"/{per}" if per else "")


def unite(arguments: Arguments, name: str) -> str | None:
    """{{unité|5|km}} "5 km", {{unité|10|m||s|-1}} "10 m s^-1": unit and exponent in turn; decimals of the language."""
    values = arguments.unnamed()
    number = values[0] if values else ""
    if not _DIGITS.match(number):
        return None
    text = localised(number, arguments.language)
    if uncertainty := arguments.first("±", "+-"):
        text += f" ± {localised(uncertainty, arguments.language)}"
    if exponent := arguments.first("e"):
        text += f"×10^{exponent}"
    if len(values) > 1 and _DIGITS.fullmatch(values[1]):
        return None
    for unit, power in zip(values[1::2], [*values[2::2], ""], strict=False):
        text += f" {unit}" if unit else ""
        text += f"^{power}" if power and unit else ""
    return text


unit = unite


def italian_measure(arguments: Arguments, name: str) -> str | None:
    """{{M|5|ul=km}}, {{M|5|k|m}} and {{M|5||km}}: "5 km"."""
    number = localised(arguments.first("1"), arguments.language)
    if not _DIGITS.match(number):
        return None
    number += f"×10^{arguments.first('e')}" if arguments.first("e") else ""
    measured = arguments.first("ul", "u") or arguments.first("2") + arguments.first("3")
    return f"{number} {measured}".strip()


def fraction(arguments: Arguments, name: str) -> str | None:
    """{{frac|1|2}} "1/2", {{frac|5|1|2}} "5 1/2", {{sfrac|n + 1|2}} "(n + 1)/2"."""
    values = [value if re.fullmatch(r"[\w.,]+", value) else f"({value})" for value in arguments.unnamed() if value]
    if name in ("half", "½", "1/2") and not values:
        return "1/2"
    if len(values) == 1:
        return f"1/{values[0]}"
    if len(values) == 2:
        return "/".join(values)
    return f"{values[0]} {values[1]}/{values[2]}" if len(values) == 3 else None


def ordinal(arguments: Arguments, name: str) -> str | None:
    """{{ordinal|3}}: "3rd"."""
    number = arguments.first("1")
    if not number.isdecimal():
        return None
    teen = number[-2:] in ("11", "12", "13")
    return number + ("th" if teen else {"1": "st", "2": "nd", "3": "rd"}.get(number[-1], "th"))


def chem(arguments: Arguments, name: str) -> str | None:
    """{{chem|SO|4|2-}}: elements, counts and charges in turn: "SO4^2-"."""
    text = ""
    for value in arguments.unnamed():
        charge = re.fullmatch(r"\d+[-+−]", value)
        text += f"^{value}" if charge and text else value
    return text or None


def chem2(arguments: Arguments, name: str) -> str | None:
    """{{chem2|SO4(2-)}}: "SO4^2-"."""
    text = re.sub(r"\((\d*[-+−])\)", r"^\1", arguments.first("1"))
    return text.replace("*", "·") or None


def nuclide(arguments: Arguments, name: str) -> str | None:
    """{{nuclide|uranium|235}}: "uranium-235"."""
    element, mass = arguments.first("1"), arguments.first("2")
    return f"{element}-{mass}" if element and mass and not element.isdigit() else None


def superscripted(arguments: Arguments, name: str) -> str | None:
    """{{sup|6}} behind 10: "^6"; {{er}} behind 1: "er"."""
    content = arguments.first("1") or (name if arguments.count == 0 else "")
    return superscript(content, arguments.before, arguments.after, arguments.style) or None


def subscripted(arguments: Arguments, name: str) -> str | None:
    """{{sub|2}} behind H: "2"."""
    return subscript(arguments.first("1"), arguments.before, arguments.after, arguments.style) or None


def scripts(arguments: Arguments, name: str) -> str | None:
    """{{su|p=+|b=2}}: "^+_2", {{subsup|x|a|b}}: "x_a^b"."""
    upper, lower, text = arguments.first("p"), arguments.first("b"), ""
    if arguments.count >= 2:
        text, lower, upper = arguments.first("1"), arguments.first("2"), arguments.first("3")
    text += f"_{lower}" if lower else ""
    return text + (f"^{upper}" if upper else "") or None


def plus_minus(arguments: Arguments, name: str) -> str | None:
    """{{±|0.3|0.4}}: "(+0.3 −0.4)"."""
    values = [value.lstrip("+-−") for value in arguments.unnamed() if value]
    if len(values) == 2:
        return f" (+{values[0]} −{values[1]})"
    return "±" + "".join(values) if len(values) < 2 else None


def gauge(arguments: Arguments, name: str) -> str | None:
    """{{Track gauge|4ft8.5in}}: "4 ft 8.5 in"."""
    parts = re.findall(r"(\d[\d.,]*)\s*([a-z]+)", arguments.first("1").lower())
    return " ".join(f"{number} {measured}" for number, measured in parts) or None


def height(arguments: Arguments, name: str) -> str | None:
    """{{height|ft=5|in=6}}: "5 ft 6 in"."""
    parts = [f"{arguments.first(key)} {key}" for key in ("ft", "in", "m", "cm") if arguments.first(key)]
    return " ".join(parts) or None


def coordinates(arguments: Arguments, name: str) -> str | None:
    """{{coord|48|51|N|2|21|E}}: "48°51′N 2°21′E"; those shown above the title give nothing."""
    shown = arguments.first("display")
    if ("title" in shown and "inline" not in shown) or shown == "t":
        return ""
    values = []
    for value in arguments.unnamed():
        if not re.fullmatch(r"[-+−]?\d+(?:\.\d+)?|[NSEWO]", value):
            break
        values.append(value)
    if len(values) == 2 and not any(value.isalpha() for value in values):
        return f"{values[0]}, {values[1]}"
    text, number = "", 0
    for value in values:
        text += f"{value} " if value.isalpha() else value + "°′″"[min(number, 2)]
        number = 0 if value.isalpha() else number + 1
    return text.strip() or None


def currency(arguments: Arguments, name: str) -> str | None:
    """{{currency|5|USD}}: "USD 5"."""
    amount, code = arguments.first("1", "amount"), arguments.first("2", "type", "code")
    return f"{code or 'USD'} {amount}" if amount else None


def spaces(arguments: Arguments, name: str) -> str:
    """{{nbsp}}, {{spaces|5}}: one space."""
    return " "
