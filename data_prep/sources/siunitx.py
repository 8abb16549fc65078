"""Numbers and units as the LaTeX package siunitx writes them in a source."""

from __future__ import annotations

import re

_PREFIXES = {
    "yocto": "y", "zepto": "z", "atto": "a", "femto": "f", "pico": "p", "nano": "n", "micro": "µ", "milli": "m",
    "centi": "c",
    "deci": "d", "deca": "da", "hecto": "h", "kilo": "k", "mega": "M", "giga": "G", "tera": "T", "peta": "P", "exa": "E",
    "kibi": "Ki", "mebi": "Mi", "gibi": "Gi", "tebi": "Ti",
}  # fmt: skip
UNITS = {
    "metre": "m", "meter": "m", "gram": "g", "second": "s", "ampere": "A", "kelvin": "K", "mole": "mol", "candela": "cd",
    "hertz": "Hz", "newton": "N", "pascal": "Pa", "joule": "J", "watt": "W", "coulomb": "C", "volt": "V", "farad": "F",
    "ohm": "Ω",
    "siemens": "S", "weber": "Wb", "tesla": "T", "henry": "H", "celsius": "°C", "degreeCelsius": "°C", "lumen": "lm",
    "lux": "lx",
    "becquerel": "Bq", "gray": "Gy", "sievert": "Sv", "minute": "min", "hour": "h", "day": "d", "degree": "°",
    "arcminute": "′",
    "arcsecond": "″", "hectare": "ha", "litre": "l", "liter": "L", "tonne": "t", "electronvolt": "eV", "dalton": "Da",
    "atomicmassunit": "u", "bar": "bar", "angstrom": "Å", "percent": "%", "decibel": "dB", "bit": "bit", "byte": "B",
    "astronomicalunit": "au", "parsec": "pc", "kilogram": "kg", "gauss": "G", "molar": "mol/dm^3", "radian": "rad",
    "steradian": "sr", "mmHg": "mmHg", "nauticalmile": "nmi", "knot": "kn", "neper": "Np", "bel": "B",
}  # fmt: skip
"""Signs by the commands that stand for them."""
_SHORT = {
    f"{prefix}{unit}" for prefix in ("", "f", "p", "n", "u", "m", "c", "d", "k", "M", "G", "T") for unit in
    ("m", "g", "s", "A", "K", "mol", "Hz", "N", "Pa", "J", "W", "C", "V", "F", "ohm", "H", "L", "l", "eV", "B", "b", "bar")
}  # fmt: skip
_TOKEN = re.compile(r"\\([A-Za-z]+|.)|\^\{?(-?\d+)\}?|([^\\^])")
_POWERS = {"squared": "2", "cubed": "3"}
_NUMBER_PARTS = ((r"\pm", "±"), ("+-", "±"), (r"\times", "×"), (r"\cdot", "·"), (r"\,", ""), ("~", " "), ("$", ""))


def number_of(source: str) -> str:
    """A number's digits as they stand in the source: "1.5e-3", "10 ± 2"."""
    for sign, shown in _NUMBER_PARTS:
        source = source.replace(sign, shown)
    return re.sub(r"\\[A-Za-z]+\s*|[{}]", "", source).strip()


def unit_of(source: str) -> str:
    """A unit's sign: "km/s^2" for \\kilo\\metre\\per\\second\\squared."""
    words: list[str] = []
    per = False
    prefix = power = ""
    for name, exponent, character in _TOKEN.findall(source):
        if exponent:
            words.append(f"^{exponent}")
        elif character:
            words.append({"~": " ", ".": "·", "{": "", "}": "", "$": ""}.get(character, character))
        elif name == "per":
            per = True
        elif name in _PREFIXES:
            prefix = _PREFIXES[name]
        elif name in ("square", "cubic"):
            power = "2" if name == "square" else "3"
        elif name in _POWERS:
            words.append(f"^{_POWERS[name]}")
        elif name in ("tothe", "raiseto", "of"):
            words.append("^" if name != "of" else " ")
        else:
            sign = UNITS.get(name, _short(name))
            divider = "/" if per else (" " if words and not words[-1].endswith(("/", " ")) and words[-1] != "" else "")
            words.append(f"{divider}{prefix}{sign}{f'^{power}' if power else ''}")
            per, prefix, power = False, "", ""
    return "".join(words).strip()


def _short(name: str) -> str:
    if name in (",", ";", " "):
        return " "
    if name in _SHORT:
        return name.replace("ohm", "Ω").replace("u", "µ", 1) if name.startswith("u") or "ohm" in name else name
    return name if name.isalpha() else {"%": "%"}.get(name, "")
