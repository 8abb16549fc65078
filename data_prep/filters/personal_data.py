"""Personal data: found by patterns that are then validated (check digits, address rules, numbering plans), and masked."""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import phonenumbers
from pydantic import Field
from stdnum import iban, luhn, verhoeff
from stdnum.br import cpf
from stdnum.de import idnr
from stdnum.es import dni, nie
from stdnum.fr import nir
from stdnum.gb import nhs
from stdnum.it import codicefiscale
from stdnum.nl import bsn
from stdnum.pl import pesel
from stdnum.us import ssn

from data_prep.document import Document, Drop
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import pieces

Kind = Literal["email", "ip", "card", "iban", "national_id", "phone"]
KINDS: tuple[Kind, ...] = ("email", "card", "iban", "national_id", "ip", "phone")
"""In the order in which they win where two claim the same characters."""


class PersonalData(FilterSettings):
    """Masks e-mail addresses, IP addresses, payment cards, IBANs, national identity numbers and phone numbers."""

    type: Literal["personal_data"]
    kinds: list[Kind] = Field(default_factory=lambda: list(KINDS))
    """What is looked for."""
    action: Literal["mask", "count"] = "mask"
    """mask: write <EMAIL>, <IP>, <CARD>, <IBAN>, <NATIONAL_ID>, <PHONE> in its place; count: only record."""
    drop_above: int | None = Field(default=None, ge=0)
    """Drop documents with more findings than this, such as leaked lists; null: none."""
    phone_regions: list[str] = Field(default_factory=lambda: ["US", "GB", "DE", "FR", "ES", "CH", "SE", "AU"])
    """Countries (ISO 3166) whose national numbers are known. Numbers with a +, or after a word such as "phone", are found for
    every country."""
    private_addresses: bool = False
    """Count IP addresses of private and reserved networks too, which tell nothing of a person."""


@dataclass(frozen=True)
class Found:
    """One finding: text[start:end]."""

    start: int
    end: int
    kind: Kind


def apply(document: Document, settings: PersonalData) -> Document | Drop:
    """Not implemented: names, postal addresses, birth dates, and whatever needs understanding; numbers written in words."""
    counts: Counter[str] = Counter()
    masked = []
    for piece in pieces(document.text):
        found = find(piece, settings)
        counts.update(item.kind for item in found)
        masked.append(mask(piece, found) if found and settings.action == "mask" else piece)
    if not counts:
        return document
    if settings.drop_above is not None and counts.total() > settings.drop_above:
        return Drop("personal data", f"{counts.total()} findings, at most {settings.drop_above}")
    metadata = {**document.metadata, "personal_data": dict(sorted(counts.items()))}
    return replace(document, text="".join(masked) if settings.action == "mask" else document.text, metadata=metadata)


def mask(text: str, found: list[Found]) -> str:
    """The text with each finding replaced by its kind."""
    parts, place = [], 0
    for item in found:
        parts += [text[place : item.start], f"<{item.kind.upper()}>"]
        place = item.end
    return "".join([*parts, text[place:]])


def find(text: str, settings: PersonalData) -> list[Found]:
    """Return all findings, in order, none overlapping."""
    starts: list[int] = []
    taken: list[Found] = []
    numbers = list(_regions((match.span() for match in _NUMBER.finditer(text)), len(text), 40))
    for kind in KINDS:
        if kind not in settings.kinds:
            continue
        spans = _FINDERS[kind](text, numbers, settings)
        new = [Found(a, b, kind) for a, b in spans if _is_free(a, b, starts, taken)]
        if new:
            taken = sorted([*taken, *new], key=lambda item: item.start)
            starts = [item.start for item in taken]
    return taken


def _is_free(start: int, end: int, starts: list[int], taken: list[Found]) -> bool:
    """Tell whether none of the findings, which are in order, claims a character of start to end."""
    place = bisect_right(starts, start)
    return (place == 0 or taken[place - 1].end <= start) and (place == len(starts) or starts[place] >= end)


Regions = list[tuple[int, int]]
"""Places of a text, in order, none touching: patterns that need digits are tried only around some."""
_NUMBER = re.compile(r"\d(?:\D{0,24}\d){3,}")
"""Four digits near each other: an IP address has no fewer."""


def _regions(spans: Iterable[tuple[int, int]], size: int, around: int) -> Iterator[tuple[int, int]]:
    """Yield the spans with `around` characters before and behind them, those that touch as one."""
    begin = end = -1
    for start, stop in spans:
        if start - around > end:
            if end >= 0:
                yield begin, end
            begin = max(0, start - around)
        end = min(size, stop + around)
    if end >= 0:
        yield begin, end


def _in(pattern: re.Pattern[str], text: str, regions: Iterable[tuple[int, int]]) -> Iterator[re.Match[str]]:
    for begin, end in regions:
        yield from pattern.finditer(text, begin, end)


_EMAIL = re.compile(
    r"(?<![\w.!#$%&'*+/=?^`{|}~-])[^\W_][\w.!#$%&'*+/=?^`{|}~-]{0,63}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@-])"
)
_IPV4 = re.compile(r"(?<![\w.])(?<!\d[,-])\d{1,3}(?:\.\d{1,3}){3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}|:)(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_VERSION = re.compile(r"(?:\bv|version|release|build|firmware|section|chapter|§)[\s.:#]{0,3}$", re.IGNORECASE)
_DIGITS = re.compile(r"(?<![\w.,+])(?<!\d[-/])\d(?:[ -]?\d){11,18}(?!\w|[-.,/]\d)")
_IBAN = re.compile(r"(?<!\w)[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{4}){2,7}(?:[ -]?[A-Za-z0-9]{1,3})?(?!\w)")
_PHONE = re.compile(r"(?<![\w.])\+?\(?\d(?:[\s()./-]{0,3}\d){6,14}(?!\w)|(?<![\w.])\d(?:[\s()./-]{0,3}\d){6,14}x\d{1,6}(?!\w)")
_CARD_PREFIX = re.compile(
    r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|6(?:011|4[4-9]|5)|35|1800|2131|62|5[06-8]|6[0-9]"
)
"""Issuers' first digits (ISO/IEC 7812): Visa, Mastercard, American Express, Diners, Discover, JCB, UnionPay, Maestro."""


_MAESTRO = re.compile(r"5[06-8]|6")
"""The only cards of 12 digits."""


def _emails(text: str, numbers: Regions, settings: PersonalData) -> Iterator[tuple[int, int]]:
    if "@" in text:
        signs = ((match.start() - 66, match.end() + 600) for match in re.finditer("@", text))
        for match in _in(_EMAIL, text, _regions(signs, len(text), 0)):
            local = match.group().split("@")[0]
            if ".." not in local and not local.endswith("."):
                yield match.span()


_COLONS = re.compile(r":[0-9A-Fa-f]{0,4}:")


def _addresses(text: str, numbers: Regions, settings: PersonalData) -> Iterator[tuple[int, int]]:
    colons = _regions((match.span() for match in _COLONS.finditer(text)), len(text), 50) if ":" in text else ()
    for pattern, regions in ((_IPV4, numbers), (_IPV6, colons)):
        for match in _in(pattern, text, regions):
            if pattern is _IPV4 and _VERSION.search(text, max(0, match.start() - 14), match.start()):
                continue
            candidate = match.group()
            if pattern is _IPV6 and sum(bool(group) for group in candidate.split(":")) < 3:
                continue  # std::list, 12::30
            try:
                address = ipaddress.ip_address(candidate)
            except ValueError:
                continue
            if settings.private_addresses or address.is_global:
                yield match.span()


def _cards(text: str, numbers: Regions, settings: PersonalData) -> Iterator[tuple[int, int]]:
    for match in _in(_DIGITS, text, numbers):
        digits = re.sub(r"\D", "", match.group())
        if len(digits) == 12 and not _MAESTRO.match(digits):
            continue
        if len(set(digits)) > 1 and _CARD_PREFIX.match(digits) and luhn.is_valid(digits):
            yield match.span()


def _ibans(text: str, numbers: Regions, settings: PersonalData) -> Iterator[tuple[int, int]]:
    for match in _in(_IBAN, text, numbers):
        end = match.end()
        while end - match.start() >= 15:  # a following word of four letters may look like a group of it
            if iban.is_valid(text[match.start() : end], check_country=False):
                yield match.start(), end
                break
            end = max(text.rfind(" ", match.start(), end), match.start())


@dataclass(frozen=True)
class _Identity:
    """A national number. `context`: words of which one must stand before it, where the number alone proves too little."""

    body: str
    pattern: re.Pattern[str]
    valid: Callable[[str], bool]
    context: re.Pattern[str] | None = None


def _identity(pattern: str, valid: Callable[[str], bool], context: str | None = None) -> _Identity:
    words = re.compile(rf"\b(?:{context})\b", re.IGNORECASE) if context else None
    return _Identity(pattern, _isolated(pattern), valid, words)


def _isolated(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w.-])(?:{pattern})(?![\w-]|\.\d)")


_SSN_GENERAL = re.compile(r"(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}")
_NINO = r"(?!BG|GB|NK|KN|TN|NT|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?\d\d ?\d\d ?\d\d ?[A-D]"
_IDENTITIES = [
    _identity(r"\d{3}-\d{2}-\d{4}", lambda s: bool(_SSN_GENERAL.fullmatch(s)) and ssn.is_valid(s)),
    _identity(r"\d{3}[ ]?\d{2}[ ]?\d{4}", ssn.is_valid, "ssn|social security"),
    _identity(_NINO, lambda s: True),
    _identity(r"\d{3}[ -]?\d{3}[ -]?\d{4}", nhs.is_valid, "nhs"),
    _identity(r"\d{8}-?[A-Z]", dni.is_valid),
    _identity(r"[XYZ]-?\d{7}-?[A-Z]", nie.is_valid),
    _identity(r"\d{3}\.\d{3}\.\d{3}-\d\d", cpf.is_valid),
    _identity(r"\d{11}", cpf.is_valid, "cpf"),
    _identity(r"[12] ?\d\d ?\d\d ?\d[\dAB] ?\d{3} ?\d{3} ?\d\d", nir.is_valid),
    _identity(r"[A-Z]{6}\d\d[A-EHLMPR-T]\d\d[A-Z]\d{3}[A-Z]", codicefiscale.is_valid),
    _identity(r"\d{2} ?\d{3} ?\d{3} ?\d{3}", idnr.is_valid, "steuer-?id\\w*|idnr|steuerliche identifikationsnummer|tax id"),
    _identity(r"\d{11}", pesel.is_valid, "pesel"),
    _identity(r"\d{9}", bsn.is_valid, "bsn|burgerservicenummer|sofinummer"),
    _identity(r"[2-9]\d{3}[ -]\d{4}[ -]\d{4}", lambda s: verhoeff.is_valid(re.sub(r"\D", "", s))),
]


_ANY_IDENTITY = _isolated("|".join(identity.body for identity in _IDENTITIES))


def _national_ids(text: str, numbers: Regions, settings: PersonalData) -> Iterator[tuple[int, int]]:
    found: set[tuple[int, int]] = set()
    for begin, end in numbers:
        behind = [begin] * len(_IDENTITIES)  # where each pattern goes on: its matches do not overlap
        candidate = _ANY_IDENTITY.search(text, begin, end)
        while candidate:
            start = candidate.start()
            for index, identity in enumerate(_IDENTITIES):
                match = identity.pattern.match(text, start, end) if start >= behind[index] else None
                if match:
                    behind[index] = match.end()
                    if _announced(identity, text, start) and identity.valid(match.group()):
                        found.add(match.span())
            candidate = _ANY_IDENTITY.search(text, start + 1, end)
    yield from sorted(found)


def _announced(identity: _Identity, text: str, start: int) -> bool:
    return identity.context is None or identity.context.search(text, max(0, start - 60), start) is not None


_PHONE_WORD = re.compile(
    r"\b(?:phone|telephone|tel|call|mobile|cell|fax|whatsapp|sms|text me|contact|reach|number is)\b", re.IGNORECASE
)
_YEAR = r"(?:1\d|20)\d\d"
_DATE = re.compile(rf"{_YEAR}[-/.]\d{{1,2}}[-/.]\d{{1,2}}|\d{{1,2}}[-/.]\d{{1,2}}[-/.]{_YEAR}|{_YEAR}\s?[-/]\s?{_YEAR}")


_OTHER_NUMBER = re.compile(
    r"(?:\b(?:isbn|issn|doi|iso|iec|rfc|jd|no|nr|date|lat|lon|coordinates)\W{0,4}[\d-]*|\d[.,])$", re.IGNORECASE
)
_DECIMAL = re.compile(r"-?\d+\.\d+")


def _phones(text: str, numbers: Regions, settings: PersonalData) -> Iterator[tuple[int, int]]:
    for match in _in(_PHONE, text, numbers):
        candidate, start = match.group(), match.start()
        if len(candidate) > 40 or "\n" in candidate or _DATE.search(candidate) or _IPV4.fullmatch(candidate):
            continue
        if _OTHER_NUMBER.search(text, max(0, start - 16), start) or _DECIMAL.fullmatch(candidate):
            continue
        announced = candidate.startswith("+") or _PHONE_WORD.search(text, max(0, start - 25), start)
        if announced or (
            sum(map(str.isdigit, candidate)) >= 9
            and not candidate.isdigit()
            and any(_is_phone(candidate, region) for region in settings.phone_regions)
        ):
            yield match.span()


_KINDS_OF_PHONE = (
    "fixed_line",
    "mobile",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "personal_number",
    "voip",
    "pager",
    "uan",
    "voicemail",
)


@lru_cache(maxsize=4096)
def _is_phone(candidate: str, region: str) -> bool:
    if not _possible(region).search(re.sub(r"x.*|\D", "", candidate)):
        return False
    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(candidate, region))
    except phonenumbers.NumberParseException:
        return False


@lru_cache(maxsize=300)
def _possible(region: str) -> re.Pattern[str]:
    """Return a pattern that the digits of each valid number match, as they are dialled in the region.

    The library takes 0.1 ms for a number, and most numbers of a table are no phone's of any region.
    """
    plan = phonenumbers.PhoneMetadata.metadata_for_region(region)
    if plan is None:
        return re.compile("")
    patterns = []
    for sharing in phonenumbers.COUNTRY_CODE_TO_REGION_CODE[plan.country_code]:
        shared = phonenumbers.PhoneMetadata.metadata_for_region(sharing)
        if shared is None or shared.national_prefix_transform_rule or plan.national_prefix_transform_rule:
            return re.compile("")
        patterns += [kind.national_number_pattern for name in _KINDS_OF_PHONE if (kind := getattr(shared, name))]
    national = "|".join(pattern for pattern in patterns if pattern)
    return re.compile(f"(?:{national})$|^(?:{plan.international_prefix or '00'})")


_FINDERS: dict[Kind, Callable[[str, Regions, PersonalData], Iterator[tuple[int, int]]]] = {
    "email": _emails,
    "card": _cards,
    "iban": _ibans,
    "national_id": _national_ids,
    "ip": _addresses,
    "phone": _phones,
}
