"""A linear classifier over hashed n-grams: small and offline. tools/train_classifiers.py trains it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

FOLDER = Path(__file__).parent / "data"
FEATURES = 2**17
"""Per kind of n-gram."""


class LinearText:
    """Weights for word 1-2-grams and character 2-5-grams within words (Joachims 1998; Lodhi et al. 2002), logistic output."""

    def __init__(self, weights: np.ndarray, bias: float):
        """weights: float32 [2 * FEATURES]."""
        self.weights, self.bias = weights, bias

    @classmethod
    def load(cls, name: str) -> LinearText:
        """One of the classifiers that ship: "spam" or "toxicity"."""
        return _load(name)

    def scores(self, texts: list[str]) -> np.ndarray:
        """Probability of the positive class, float64 [texts]."""
        if not texts:
            return np.empty(0)
        logits = features(texts) @ self.weights.astype(np.float64) + self.bias
        return 1 / (1 + np.exp(-np.clip(logits, -50, 50)))


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
