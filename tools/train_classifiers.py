"""Train the classifiers that ship in data_prep/filters/data, and say how good they are by cross-validation.

python tools/train_classifiers.py spam SMSSpamCollection          label, tab, message per line (UCI SMS Spam Collection)
python tools/train_classifiers.py toxicity labeled_data.csv       columns class (0 hate, 1 offensive, 2 neither), tweet
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, precision_score, recall_score
from sklearn.model_selection import StratifiedKFold

from data_prep.filters.linear_text import FOLDER, features
from data_prep.filters.spam import normalise as normalise_message
from data_prep.filters.toxicity import normalise as normalise_tweet

SMALLEST_WEIGHT = 0.02
"""Weights nearer to 0 are not stored."""


def read_spam(path: Path) -> tuple[list[str], np.ndarray]:
    """(messages, 1 for spam)."""
    rows = [line.split("\t", 1) for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if "\t" in line]
    return [normalise_message(text) for _, text in rows], np.array([label == "spam" for label, _ in rows], int)


def read_toxicity(path: Path) -> tuple[list[str], np.ndarray]:
    """(tweets, 1 for hate or offensive)."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["class"], row["tweet"]) for row in csv.DictReader(file)]
    return [normalise_tweet(text) for _, text in rows], np.array([label != "2" for label, _ in rows], int)


READ = {"spam": read_spam, "toxicity": read_toxicity}
MODEL = {
    "spam": {"C": 300.0, "class_weight": None},
    "toxicity": {"C": 6.0, "class_weight": None},
}


def cross_validate(name: str, texts: list[str], labels: np.ndarray, folds: int = 10) -> np.ndarray:
    """Probabilities for every text from a classifier that did not see it, float64 [texts]."""
    x, out = features(texts), np.zeros(len(texts))
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=0).split(x, labels):
        model = LogisticRegression(max_iter=300, solver="liblinear", **MODEL[name]).fit(x[train], labels[train])
        out[test] = model.predict_proba(x[test])[:, 1]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=READ)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    texts, labels = READ[options.name](options.file)
    scores = cross_validate(options.name, texts, labels)
    for threshold in (0.3, 0.4, 0.5, 0.6, 0.7):
        found = scores >= threshold
        figures = [measure(labels, found) for measure in (precision_score, recall_score, f1_score)]
        print(f"threshold {threshold}: precision {figures[0]:.4f}  recall {figures[1]:.4f}  F1 {figures[2]:.4f}")
    model = LogisticRegression(max_iter=300, solver="liblinear", **MODEL[options.name]).fit(features(texts), labels)
    weights = model.coef_[0]
    index = np.flatnonzero(np.abs(weights) >= SMALLEST_WEIGHT).astype(np.uint32)
    target = FOLDER / f"{options.name}.npz"
    np.savez_compressed(target, index=index, weight=weights[index].astype(np.float16), bias=model.intercept_[0])
    print(f"{target}: {len(index):,} weights, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
