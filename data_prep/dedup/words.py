"""Words of many texts as 64-bit hashes, and hashes of their n-grams, by array arithmetic.

A word is a run of letters, digits and combining marks (Unicode categories L, N, M), compared in lower case and Unicode NFC;
everything else separates words and does not count. Scripts that are written without spaces (Chinese, Japanese, Thai, Lao,
Khmer, Burmese, Tibetan) have no words that can be cut without a dictionary: there each character is a word, so that a word
n-gram is a character n-gram.

All hashes are polynomials modulo 2^64 (Karp and Rabin 1987) of fixed pseudo-random bases, mixed at the end: the same on every
machine and in every release. Only characters that a newer Python's Unicode tables class differently can change them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache

import numpy as np

from data_prep.document import Document
from data_prep.long_text import LongText

BATCH_CHARACTERS = 1 << 18
"""Texts are hashed together up to this many characters; a longer text is hashed alone, in pieces, and a word on a cut counts as
two."""
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x312F),  # CJK radicals, kana, bopomofo
    (0x31A0, 0x9FFF),  # kana extensions, CJK ideographs, Yi is behind
    (0xF900, 0xFAFF),  # CJK compatibility ideographs
    (0xFF66, 0xFF9F),  # half-width kana
    (0x1B000, 0x1B16F),  # kana supplements
    (0x20000, 0x3FFFF),  # CJK ideographs of the further planes
)
SEPARATOR, LETTER, WHOLE_WORD = 0, 1, 2
_CHARACTER_BASE, _WORD_BASE = 0x9E3779B97F4A7C15, 0xD1342543DE82EF95  # odd: they have inverses modulo 2^64


def mix(values: np.ndarray) -> np.ndarray:
    """Spread uint64 values over all bits, in place; a bijection (the finaliser of SplitMix64, Steele et al. 2014)."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def normalise(text: str) -> str:
    """Lower case, Unicode NFC."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.lower())


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in groups whose texts can be hashed together; a LongText always alone."""
    batch, size = [], 0
    for document in documents:
        length = BATCH_CHARACTERS if isinstance(document.text, LongText) else len(document.text)
        if batch and size + length >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += length + 1
    if batch:
        yield batch


def hash_words(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(uint64 hash of every word of all texts, int64 [texts + 1] where each text's words begin and end)."""
    normal = [normalise(text) for text in texts]
    joined = "\n".join(normal)
    if len(texts) > 1 and len(joined) > BATCH_CHARACTERS:
        # where a text is cut must not depend on the others
        singly = [hash_words([text]) for text in texts]
        counts = [len(hashes) for hashes, _ in singly]
        return np.concatenate([hashes for hashes, _ in singly]), np.concatenate(([0], np.cumsum(counts)))
    text_starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) + 1 for text in normal], out=text_starts[1:])
    hashes, starts = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for cut in range(0, len(joined), BATCH_CHARACTERS):
        values, places = _hash_words(joined[cut : cut + BATCH_CHARACTERS])
        hashes.append(values)
        starts.append(places + cut)
    return np.concatenate(hashes), np.searchsorted(np.concatenate(starts), text_starts)


def _hash_words(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(hash, first character) of each word."""
    characters, tables = _characters(text)
    starts = np.flatnonzero(_word_starts(tables[0][characters]))
    if not len(starts):
        return np.empty(0, np.uint64), starts
    powers, inverses = _powers(_CHARACTER_BASE, BATCH_CHARACTERS)
    terms = tables[1][characters]
    terms *= powers[: len(terms)]
    hashes = np.add.reduceat(terms, starts)  # separators are worth nothing: each sum ends with its word
    hashes *= inverses[starts]
    return mix(hashes), starts


def spans(text: str) -> tuple[np.ndarray, np.ndarray]:
    """(first character, end) of each word of one text in Unicode NFC, in the order in which `hash_words` gives them."""
    characters, (classes, _) = _characters(text)
    kinds = classes[characters]
    starts = _word_starts(kinds)
    # a word cut in two by the size of a batch
    cuts = np.arange(BATCH_CHARACTERS, len(kinds), BATCH_CHARACTERS)
    starts[cuts] |= kinds[cuts] == LETTER
    first = np.flatnonzero(starts)
    ends = np.ones(len(kinds), bool)
    ends[:-1] = starts[1:] | (kinds[1:] == SEPARATOR)
    return first, np.flatnonzero(ends & (kinds != SEPARATOR)) + 1


def hash_ngrams(words: np.ndarray, bounds: np.ndarray, n: int, whole: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hash of each n-gram, index of its first word, int64 [texts + 1] where each text's n-grams begin and end).

    `whole`: a text of fewer than n words (and at least one) has one n-gram, all of it; else it has none.
    """
    lengths = np.diff(bounds)
    counts = np.maximum(lengths - n + 1, ((lengths > 0) & whole).astype(np.int64))
    ends = np.zeros(len(bounds), np.int64)
    np.cumsum(counts, out=ends[1:])
    first = np.arange(ends[-1]) + np.repeat(bounds[:-1] - ends[:-1], counts)
    stop = np.minimum(first + n, np.repeat(bounds[1:], counts))
    powers, inverses = _powers(_WORD_BASE, 1 << max(18, len(words).bit_length()))
    sums = np.zeros(len(words) + 1, np.uint64)
    np.cumsum(words * powers[: len(words)], out=sums[1:])
    grams = sums[stop]
    grams -= sums[first]
    grams *= inverses[first]
    return mix(grams), first, ends


def _word_starts(kinds: np.ndarray) -> np.ndarray:
    starts = kinds != SEPARATOR
    starts[1:] &= (kinds[1:] == WHOLE_WORD) | (kinds[:-1] != LETTER)
    return starts


def _characters(text: str) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Code points, and the tables for them."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8), _tables(128)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4"), _tables(0x110000)


@cache
def _tables(size: int) -> tuple[np.ndarray, np.ndarray]:
    """(class, value in a hash) of the code points below `size`."""
    categories = np.array([ord(unicodedata.category(chr(code))[0]) for code in range(size)], np.uint8)
    kinds = np.isin(categories, [ord(kind) for kind in "LNM"]).astype(np.uint8) * np.uint8(LETTER)
    for low, high in UNSPACED:
        characters = kinds[low : high + 1]
        characters[np.isin(categories[low : high + 1], [ord("L"), ord("N")])] = WHOLE_WORD
    values = mix(np.arange(1, size + 1, dtype=np.uint64))
    values[kinds == SEPARATOR] = 0
    return kinds, values


@cache
def _powers(base: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first powers of a base modulo 2^64, and their inverses."""
    return tuple(
        np.multiply.accumulate(np.concatenate((np.ones(1, np.uint64), np.full(count - 1, factor, np.uint64))))
        for factor in (base, pow(base, -1, 2**64))
    )
