"""The rules of Gopher's MassiveText (Rae et al. 2021, appendix A1.1) against text of poor quality and repetition."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Literal

from pydantic import Field

from data_prep.document import Document, Drop
from data_prep.filters.settings import FilterSettings
from data_prep.filters.text import RepeatedNGrams, lines, pieces, repeated, strings, words

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
    count = letters = total = 0
    for piece in pieces(text):
        tokens = words(piece)
        count += int(tokens.real.sum())
        letters += int((tokens.ends - tokens.starts)[tokens.real].sum())
        total += len(tokens)
    if not settings.min_words <= count <= settings.max_words:
        few = count < settings.min_words
        bound = f"at least {settings.min_words}" if few else f"at most {settings.max_words}"
        return Drop("too few words" if few else "too many words", f"{count} words, {bound}")
    mean = letters / max(1, count)
    if not settings.min_mean_word_length <= mean <= settings.max_mean_word_length:
        bounds = f"{settings.min_mean_word_length} to {settings.max_mean_word_length}"
        return Drop("mean word length", f"{mean:.2f} characters, {bounds} is wanted")
    hashes, ellipses = text.count("#"), text.count("...") + text.count("…")
    if max(hashes, ellipses) > settings.max_symbol_ratio * max(1, total):
        symbol = "hash signs" if hashes > ellipses else "ellipses"
        return Drop(f"too many {symbol}", f"{max(hashes, ellipses)} for {total} words")
    return _judge_lines(text, settings) or _judge_vocabulary(text, settings) or document


def _judge_lines(text: str, settings: GopherQuality) -> Drop | None:
    """Judge how lines begin and end."""
    rows = bullets = trailing = 0
    for piece in pieces(text):
        rows += len(lines(piece))
        bullets += sum(row.startswith(("•", "-", "*", "‣", "◦")) for row in lines(piece))
        trailing += sum(row.endswith(("...", "…")) for row in lines(piece))
    if bullets > settings.max_bullet_lines * rows:
        return Drop("mostly bullet points", f"{bullets} of {rows} lines")
    if trailing > settings.max_ellipsis_lines * rows:
        return Drop("many lines end in an ellipsis", f"{trailing} of {rows}")
    return None


def _judge_vocabulary(text: str, settings: GopherQuality) -> Drop | None:
    """Judge the share of words with a letter, and the number of stop words."""
    alphabetic = total = 0
    for piece in pieces(text):
        counts = Counter(strings(piece) if settings.punctuation_is_words else piece.split())
        alphabetic += sum(count for token, count in counts.items() if any(map(str.isalpha, token)))
        total += counts.total()
    if alphabetic < settings.min_alphabetic_words * total:
        return Drop("too few alphabetic words", f"{alphabetic} of {total}")
    found = 0
    for word in dict.fromkeys(settings.stop_words):
        if found == settings.min_stop_words:
            return None
        found += bool(_whole_word(word).search(text))
    if found < settings.min_stop_words:
        return Drop("too few stop words", f"{found} different ones, at least {settings.min_stop_words}")
    return None


@lru_cache(maxsize=1000)
def _whole_word(word: str) -> re.Pattern[str]:
    """Return a pattern for one of the words that text.words() finds, in any case."""
    return re.compile(rf"(?<!\w)(?<!\w['’.-]){re.escape(word)}(?!['’.-]?\w)", re.IGNORECASE)


def apply_repetition(document: Document, settings: GopherRepetition) -> Document | Drop:
    """All rules of the section "Repetition removal". Characters are those of words, without the white space between.

    A text of more than 4 million characters is judged in pieces of that size: repetitions within a piece are counted.
    """
    size = max(1, len(document.text))
    for kind, share, characters in (
        ("paragraphs", settings.max_duplicate_paragraphs, settings.max_duplicate_paragraph_characters),
        ("lines", settings.max_duplicate_lines, settings.max_duplicate_line_characters),
    ):
        total = number = length = 0
        for piece in pieces(document.text):
            items = lines(piece) if kind == "lines" else [part for raw in piece.split("\n\n") if (part := raw.strip())]
            again, covered = repeated(items)
            total, number, length = total + len(items), number + again, length + covered
        if number > share * max(1, total) or length > characters * size:
            return Drop(f"repeated {kind}", f"{number} of {total}, {length / size:.1%} of characters")
    covered_by = repeated_characters(document.text)
    for n, limit in TOP_NGRAMS.items():
        if (covered := covered_by[n]) > limit * size:
            return Drop(f"one {n}-gram again and again", f"{covered / size:.1%} of characters, at most {limit:.0%}")
    for n, limit in DUPLICATE_NGRAMS.items():
        if (covered := covered_by[n]) > limit * size:
            return Drop(f"repeated {n}-grams", f"{covered / size:.1%} of characters, at most {limit:.0%}")
    return document


def repeated_characters(text: str) -> Counter[int]:
    """Return n -> characters: of the most frequent n-gram for n of TOP_NGRAMS, of repeated ones for n of DUPLICATE_NGRAMS.

    0 where none can reach the limits: no n-gram is more frequent than 2-grams, and longer ones cover no more than shorter ones.
    """
    covered_by: Counter[int] = Counter()
    for piece in pieces(text):
        tokens = words(piece)
        ngrams = RepeatedNGrams(tokens.keys, tokens.ends - tokens.starts)
        if not ngrams.cannot_reach(min(TOP_NGRAMS.values()), len(piece), max(TOP_NGRAMS)):
            for n in TOP_NGRAMS:
                covered_by[n] += ngrams.top_characters(n)
        for n in DUPLICATE_NGRAMS:
            covered = ngrams.duplicate_characters(n)
            covered_by[n] += covered
            if covered <= min(DUPLICATE_NGRAMS.values()) * len(piece):
                break
    return covered_by
