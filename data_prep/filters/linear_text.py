"""A linear classifier over hashed n-grams: small and offline. tools/train_classifiers.py trains it."""

from __future__ import annotations

import re
from array import array
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import mmh3
import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

FOLDER = Path(__file__).parent / "data"
FEATURES = 2**17
"""Per kind of n-gram."""
_TOKEN = re.compile(r"\b\w+\b|[^\w\s]")
_CODE_BITS = 19
"""Bits of a kind of n-gram, a feature and its sign."""
_BATCH = 2048
"""Texts scored at a time: their numbers and a code fit in 31 bits."""
_REMEMBERED = 200_000
"""Words whose n-grams' hashes are remembered."""
_LONG_WORD = 20
"""Characters above which a word is not remembered: it hardly comes again."""


class LinearText:
    """Weights for word 1-2-grams and character 2-5-grams within words (Joachims 1998; Lodhi et al. 2002), logistic output."""

    def __init__(self, weights: np.ndarray, bias: float):
        """weights: float32 [2 * FEATURES]."""
        self.weights, self.bias = weights, bias
        self._signed = np.stack([weights, -weights], axis=1).reshape(-1)
        """By code, see _codes."""

    @classmethod
    def load(cls, name: str) -> LinearText:
        """One of the classifiers that ship: "spam" or "toxicity"."""
        return _load(name)

    def scores(self, texts: list[str]) -> np.ndarray:
        """Return the probability of the positive class: float64 [texts].

        The logits are those of `features(texts) @ weights + bias`, whose n-grams are hashed once per word here.
        """
        batches = [self._logits(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
        return 1 / (1 + np.exp(-np.clip(np.concatenate([np.empty(0), *batches]), -50, 50)))

    def _logits(self, texts: list[str]) -> np.ndarray:
        codes = _codes(texts)
        codes.sort()
        starts = np.flatnonzero(codes[1:] != codes[:-1])
        starts += 1
        starts = np.concatenate([[0], starts])
        distinct = codes[starts] if len(codes) else codes
        counts = np.diff(starts, append=len(codes)).astype(np.float64)[: len(distinct)]
        # two n-grams of one number and different signs: counts of one feature
        for place in np.flatnonzero((distinct[1:] ^ distinct[:-1]) == 1).tolist():
            if not distinct[place] & 1:
                counts[place], counts[place + 1] = counts[place] - counts[place + 1], 0
        rows = distinct >> (_CODE_BITS - 1)  # two for each text: n-grams of words, and of characters
        products = np.bincount(rows, counts * self._signed[distinct & (2**_CODE_BITS - 1)], 2 * len(texts))
        norms = np.sqrt(np.bincount(rows, counts * counts, 2 * len(texts)))
        lengths = np.where(norms > 0, norms, 1)
        return (products / lengths).reshape(-1, 2).sum(axis=1) + self.bias


def _codes(texts: list[str]) -> np.ndarray:
    """Return a code for each n-gram of at most _BATCH texts: int32, from high to low bits the text's number, the kind of
    n-gram, the feature's number, and whether its sign is negative.

    Number and sign are those of sklearn's FeatureHasher: a hash's size modulo FEATURES, and its sign.
    """
    words, characters = [], []
    for text in texts:
        lower = text.lower()
        if not lower.isascii():
            lower = lower.encode("utf-8", "replace").decode()  # no bytes stand for a lone surrogate
        words.append(_token_hashes(lower))
        characters.append(_character_hashes(lower))
    hashes = np.frombuffer(b"".join(words + characters), np.int32)
    sizes = np.fromiter(map(len, words + characters), np.int64, 2 * len(texts)) // 4
    codes = np.abs(hashes) & (FEATURES - 1)
    codes += codes
    codes += hashes < 0
    rows = np.arange(0, 2 * len(texts), dtype=np.int32).reshape(-1, 2).T.ravel() << (_CODE_BITS - 1)
    codes += np.repeat(rows, sizes)
    return codes


def _token_hashes(text: str) -> bytes:
    """Return the hashes of words and pairs of words of a text in lower case: int32 [n-grams]."""
    tokens = _TOKEN.findall(text)
    hashes = array("i", map(mmh3.hash, tokens))
    hashes.extend(map(mmh3.hash, map(" ".join, pairwise(tokens))))
    return hashes.tobytes()


_remembered: dict[str, bytes] = {}
"""Word -> hashes of its n-grams."""


def _character_hashes(text: str) -> bytes:
    """Return the hashes of character n-grams within the words of a text in lower case: int32 [n-grams]."""
    split = text.split()
    hashes = list(map(_remembered.get, split))
    if None in hashes:
        if len(_remembered) > _REMEMBERED:
            _remembered.clear()
        for place, word in enumerate(split):
            if hashes[place] is None:
                found = hashes[place] = _hashed_word(word)
                if len(word) <= _LONG_WORD:
                    _remembered[word] = found
    return b"".join(hashes)  # type: ignore[arg-type]


def _hashed_word(word: str) -> bytes:
    """Return the hashes of a word's character n-grams: int32 [n-grams]."""
    padded = f" {word} "
    ngrams = []
    for n in range(2, 6):
        ngrams += [padded[i : i + n] for i in range(max(1, len(padded) - n + 1))]
        if n >= len(padded):
            break  # a short word counts once
    return array("i", map(mmh3.hash, ngrams)).tobytes()


@lru_cache(maxsize=4)
def _load(name: str) -> LinearText:
    with np.load(FOLDER / f"{name}.npz") as stored:
        weights = np.zeros(2 * FEATURES, np.float32)
        weights[stored["index"]] = stored["weight"]
        return LinearText(weights, float(stored["bias"]))


def features(texts: list[str]) -> csr_matrix:
    """Hashed n-grams, each kind of unit length: float64 [texts, 2 * FEATURES]. Stateless."""
    from scipy.sparse import hstack

    return hstack([vectorizer.transform(texts) for vectorizer in _vectorizers()], format="csr")


@lru_cache(maxsize=1)
def _vectorizers() -> list[HashingVectorizer]:
    from sklearn.feature_extraction.text import HashingVectorizer  # a second to load, in every worker: only for who needs it

    common = {"n_features": FEATURES, "alternate_sign": True, "lowercase": True}
    words = HashingVectorizer(ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b|[^\w\s]", **common)
    return [words, HashingVectorizer(analyzer="char_wb", ngram_range=(2, 5), **common)]
