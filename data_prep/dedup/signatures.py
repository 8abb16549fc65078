"""What near-duplicate search knows of a document: band hashes that find candidates, and a sketch that measures similarity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from data_prep.dedup.words import hash_ngrams, hash_words, mix
from data_prep.long_text import LongText

ROUNDS = 8
"""Rounds of random bins before the bins still empty are filled one by one; any number gives valid signatures."""
SHINGLES_AT_ONCE = 1 << 20
_EMPTY = np.uint64(2**64 - 1)
_LOW = np.uint64(2**32 - 1)


def shingles(texts: list[str | LongText], n: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint32 hashes of each text's word n-grams, ascending and different within a text; int64 [texts + 1] of their bounds).

    A text of fewer than n words has one, all of it; a text without words has none. Of a million different n-grams about a
    hundred share a 32-bit hash.
    """
    if isinstance(texts[0], LongText):  # is alone
        hashes = _long_shingles(texts[0], n)
        bounds = np.array([0, len(hashes)])
    else:
        grams, _, bounds = hash_ngrams(*hash_words(texts), n, whole=True)
        hashes = (grams >> np.uint64(32)).astype(np.uint32)
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        hashes[start:stop].sort()
    new = np.ones(len(hashes), bool)
    new[1:] = hashes[1:] != hashes[:-1]
    new[bounds[:-1][bounds[:-1] < len(hashes)]] = True
    return hashes[new], np.concatenate(([0], np.cumsum(new)))[bounds]


def _long_shingles(text: LongText, n: int) -> np.ndarray:
    """uint32 hashes of the n-grams, some of them more than once; a word on a cut between pieces counts as two."""
    found, words = [], np.empty(0, np.uint64)
    for piece in text.pieces():
        words = np.concatenate((words[max(0, len(words) - n + 1) :], hash_words([piece])[0]))
        grams, _, _ = hash_ngrams(words, np.array([0, len(words)]), n, whole=False)
        found.append(np.unique((grams >> np.uint64(32)).astype(np.uint32)))
    if not any(map(len, found)):
        grams, _, _ = hash_ngrams(words, np.array([0, len(words)]), n, whole=True)
        found.append((grams >> np.uint64(32)).astype(np.uint32))
    return np.concatenate(found)


def sign(hashes: np.ndarray, bounds: np.ndarray, components: int, seed: int) -> np.ndarray:
    """MinHash signatures, uint64 [texts, components]: two texts agree in a component with the probability of their Jaccard
    similarity (Broder 1997). Texts without shingles are left at the largest value.

    These are Fast Similarity Sketches (Dahlgaard, Knudsen, Thorup 2017): each shingle goes to one random bin per round, a bin
    holds the smallest value of the first round that reached it; bins still empty after the rounds take the minimum over all
    shingles. A long text costs one hash per shingle where textbook MinHash costs one per shingle and component.
    """
    texts, lengths = len(bounds) - 1, np.diff(bounds)
    signatures = np.full((texts, components), _EMPTY)
    # texts without shingles can never be filled
    open_texts = np.flatnonzero(lengths)
    values = hashes
    for turn in range(ROUNDS):
        for some, counts in _at_once(values, lengths[open_texts]):
            mixed = mix(some + _salt(seed, turn))
            bins = ((mixed >> np.uint64(32)) * np.uint64(components)) >> np.uint64(32)
            slots = np.repeat(open_texts * components, counts) + bins.astype(np.int64)
            mixed &= _LOW
            mixed |= np.uint64(turn << 32)
            np.minimum.at(signatures.reshape(-1), slots, mixed)
        unfilled = (signatures[open_texts] == _EMPTY).any(axis=1)
        if not unfilled.any():
            return signatures
        values = values[np.repeat(unfilled, lengths[open_texts])]
        open_texts = open_texts[unfilled]
    for component in range(components):
        chosen = signatures[open_texts, component] == _EMPTY
        if chosen.any():
            those = open_texts[chosen]
            for some, counts in _at_once(values[np.repeat(chosen, lengths[open_texts])], lengths[those]):
                mixed = mix(some + _salt(seed, ROUNDS + component)) & _LOW
                starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
                smallest = np.minimum.reduceat(mixed, starts) | np.uint64(ROUNDS << 32)
                signatures[those, component] = np.minimum(signatures[those, component], smallest)
    return signatures


def _at_once(values: np.ndarray, lengths: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(uint64 values, how many of each text): all, or of a single text some at a time."""
    step = len(values) if len(lengths) > 1 else SHINGLES_AT_ONCE
    for start in range(0, len(values), max(1, step)):
        some = values[start : start + step].astype(np.uint64)
        yield some, lengths if len(lengths) > 1 else np.array([len(some)])


def band_hashes(signatures: np.ndarray, bands: int) -> np.ndarray:
    """uint64 [texts, bands]: one hash of each band's components, with the band's number in it."""
    texts, components = signatures.shape
    rows = components // bands
    factors = mix(np.arange(1, rows + 1, dtype=np.uint64)) | np.uint64(1)
    mixed = mix(signatures.copy()).reshape(texts, bands, rows) * factors
    return mix(mixed.sum(axis=2, dtype=np.uint64) + mix(np.arange(1, bands + 1, dtype=np.uint64)))


def sketch(hashes: np.ndarray, bounds: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Bottom-k sketches (Cohen and Kaplan 2007): (the values of all texts, their numbers); of each text how many shingles it
    has, then the smallest `size` of them."""
    lengths = np.diff(bounds)
    counts = np.minimum(lengths, size)
    starts = np.cumsum(counts + 1) - counts - 1
    values = np.empty(counts.sum() + len(counts), np.uint32)
    within = np.ones(len(values), bool)
    within[starts] = False
    values[starts] = lengths
    places = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    values[within] = hashes[np.repeat(bounds[:-1], counts) + places]
    return values, counts + 1


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard similarity of two texts' shingles from their sketches: exact where a sketch holds all shingles, else with a
    standard error below 0.5 / sqrt(size)."""
    limit = min((values[-1] for values in (a, b) if values[0] > len(values) - 1), default=None)
    both = np.concatenate((a[1:], b[1:]))
    if limit is not None:
        both = both[both <= limit]
    both.sort()
    common = np.count_nonzero(both[1:] == both[:-1])
    return common / (len(both) - common) if len(both) else 0.0


def _salt(seed: int, turn: int) -> np.uint64:
    return mix(np.array([seed * 1_000_003 + turn + 1], np.uint64))[0]
