"""The rules of Gopher's MassiveText (Rae et al. 2021, appendix A1.1) against text of poor quality and repetition."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import RepeatedNGrams, lines, repeated, word_counts, words

STOP_WORDS = ["the", "be", "to", "of", "and", "that", "have", "with"]
TOP_NGRAMS = {2: 0.20, 3: 0.18, 4: 0.16}
DUPLICATE_NGRAMS = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
"""n -> the largest share of a document's characters; table A1."""


class GopherQuality(FilterSettings):
    """Numbers of words, symbols, bullets, ellipses, and stop words."""

    type: Literal["gopher_quality"]
    min_words: int = Field(default=50, ge=0)
    max_words: int = Field(default=100_000, ge=1)
    min_mean_word_length: float = 3
    max_mean_word_length: float = 10
    max_symbol_ratio: float = 0.1
    """Hash signs per word, and ellipses per word."""
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic_words: float = 0.8
    """Share of words that hold a letter."""
    punctuation_is_words: bool = False
    """For min_alphabetic_words, of which the paper does not say what a word is. false: what white space divides, as in Dolma;
    true: also each punctuation mark, as in datatrove, which drops much good prose."""
    min_stop_words: int = 2
    stop_words: list[str] = STOP_WORDS
    """The paper's English ones; give your own for other languages, or min_stop_words 0."""


class GopherRepetition(FilterSettings):
    """Repeated lines, paragraphs and n-grams, with the thresholds of table A1."""

    type: Literal["gopher_repetition"]
    max_duplicate_lines: float = 0.30
    max_duplicate_line_characters: float = 0.20
    max_duplicate_paragraphs: float = 0.30
    max_duplicate_paragraph_characters: float = 0.20


def apply_quality(document: Document, settings: GopherQuality) -> Document | Drop:
    """All rules of the section "Quality filtering" of the paper. Not implemented: its safe-search and language rules."""
    text = document.text
    tokens = words(text)
    real = [token for token in tokens if token[0].isalnum() or token[0] == "_"]
    count = len(real)
    if not settings.min_words <= count <= settings.max_words:
        few = count < settings.min_words
        bound = f"at least {settings.min_words}" if few else f"at most {settings.max_words}"
        return Drop("too few words" if few else "too many words", f"{count} words, {bound}")
    mean = sum(map(len, real)) / max(1, count)
    if not settings.min_mean_word_length <= mean <= settings.max_mean_word_length:
        bounds = f"{settings.min_mean_word_length} to {settings.max_mean_word_length}"
        return Drop("mean word length", f"{mean:.2f} characters, {bounds} is wanted")
    total = max(1, len(tokens))
    hashes, ellipses = text.count("#"), text.count("...") + text.count("…")
    if max(hashes, ellipses) > settings.max_symbol_ratio * total:
        symbol = "hash signs" if hashes > ellipses else "ellipses"
        return Drop(f"too many {symbol}", f"{max(hashes, ellipses)} for {total} words")
    rows = lines(text)
    bullets = sum(row.startswith(("•", "-", "*", "‣", "◦")) for row in rows)
    if bullets > settings.max_bullet_lines * len(rows):
        return Drop("mostly bullet points", f"{bullets} of {len(rows)} lines")
    trailing = sum(row.endswith(("...", "…")) for row in rows)
    if trailing > settings.max_ellipsis_lines * len(rows):
        return Drop("many lines end in an ellipsis", f"{trailing} of {len(rows)}")
    counts = word_counts(text) if settings.punctuation_is_words else Counter(text.split())
    alphabetic = sum(count for token, count in counts.items() if any(map(str.isalpha, token)))
    if alphabetic < settings.min_alphabetic_words * counts.total():
        return Drop("too few alphabetic words", f"{alphabetic} of {counts.total()}")
    found = len(set(settings.stop_words).intersection(map(str.lower, word_counts(text))))
    if found < settings.min_stop_words:
        return Drop("too few stop words", f"{found} different ones, at least {settings.min_stop_words}")
    return document


def apply_repetition(document: Document, settings: GopherRepetition) -> Document | Drop:
    """All rules of the section "Repetition removal". Characters are those of words, without the white space between."""
    text = document.text
    size = max(1, len(text))
    paragraphs = [stripped for part in text.split("\n\n") if (stripped := part.strip())]
    for kind, items, share, characters in (
        ("paragraphs", paragraphs, settings.max_duplicate_paragraphs, settings.max_duplicate_paragraph_characters),
        ("lines", lines(text), settings.max_duplicate_lines, settings.max_duplicate_line_characters),
    ):
        number, length = repeated(items)
        if number > share * max(1, len(items)) or length > characters * size:
            return Drop(f"repeated {kind}", f"{number} of {len(items)}, {length / size:.1%} of characters")
    ngrams = RepeatedNGrams(words(text), max(DUPLICATE_NGRAMS))
    for n, limit in TOP_NGRAMS.items():
        if (covered := ngrams.top_characters(n)) > limit * size:
            return Drop(f"one {n}-gram again and again", f"{covered / size:.1%} of characters, at most {limit:.0%}")
    # a document without repeated 5-grams has no longer ones either
    for n, limit in DUPLICATE_NGRAMS.items():
        covered = ngrams.duplicate_characters(n)
        if covered > limit * size:
            return Drop(f"repeated {n}-grams", f"{covered / size:.1%} of characters, at most {limit:.0%}")
        if not covered:
            break
    return document
