"""Sources as the run file names them: weights, epochs, packings, stages, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from data_prep import packing
from data_prep.shards import TokenShards
from tests.corpora import write_shards
from trainer.config import DataSection
from trainer.data.corpus import Corpus, CorpusError, open_corpus

LENGTH = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("corpora")
    for name, documents in (("a", 20), ("b", 60), ("c", 10)):
        write_shards(root / name, documents=documents, seed=documents)
    return root


def opened(folder: Path, sources: dict[str, dict[str, Any]] | None = None, **data: Any) -> Corpus:
    named = sources and {name: {"shards": str(folder / name), **section} for name, section in sources.items()}
    return open_corpus(DataSection(**{"sources": named, "sequence_length": LENGTH, **data}), seed=1)


def shares(corpus: Corpus, count: int) -> dict[str, float]:
    """Tokens of the first windows by source, as shares."""
    sources, windows = corpus.mixture.locate(0, count)
    tokens = {}
    for number, source in enumerate(corpus.mixture.sources):
        batch = corpus.windows[number].read(windows[sources == number])
        tokens[source.name] = (batch.inputs != 0).sum() + (batch.real & (batch.inputs == 0)).sum()
    return {name: value / sum(tokens.values()) for name, value in tokens.items()}


def test_one_folder_is_one_source(folder):
    corpus = opened(folder, train=str(folder / "a"))
    assert [source.name for source in corpus.mixture.sources] == ["train"] and corpus.mixture.end is None
    size = len(corpus.windows[0])
    assert sorted(corpus.mixture.locate(0, size)[1].tolist()) == list(range(size))


def test_without_weights_every_source_counts_by_its_tokens(folder):
    corpus = opened(folder, {"a": {}, "b": {}, "c": {}})
    sizes = {source.name: windows.shards.tokens for source, windows in zip(corpus.mixture.sources, corpus.windows, strict=True)}
    counts = dict(zip((s.name for s in corpus.mixture.sources), corpus.mixture.counts(400).tolist(), strict=True))
    for name, size in sizes.items():
        assert counts[name] == pytest.approx(400 * size / sum(sizes.values()), abs=5)


def test_weights_are_of_tokens_also_where_windows_hold_padding(folder):
    packing.make(TokenShards.open(folder / "a"), "pad", LENGTH * 8)
    corpus = opened(folder, {"a": {"weight": 0.5, "packing": "pad"}, "b": {"weight": 0.5}}, sequence_length=LENGTH * 8)
    padded = corpus.windows[[source.name for source in corpus.mixture.sources].index("a")]
    assert padded.tokens / (len(padded) * LENGTH * 8) < 0.7  # else the test shows nothing
    assert shares(corpus, 600)["a"] == pytest.approx(0.5, abs=0.03)


def test_stages_change_what_they_name_and_nothing_else(folder):
    stages = [
        {"from_tokens": 100 * LENGTH, "weights": {"a": 3}},
        {"from_tokens": 200 * LENGTH - 5, "weights": {"b": 0}, "sequence_length": 8},
        {"from_tokens": 300 * LENGTH, "sequence_length": 32},
    ]
    corpus = opened(folder, {"a": {"weight": 1}, "b": {"weight": 1}, "c": {"weight": 0}}, curriculum=stages)
    starts = [0, 100, 200, 300]
    counts = [corpus.mixture.counts(position) for position in (*starts, 400)]
    names = [source.name for source in corpus.mixture.sources]
    found = [dict(zip(names, np.diff(pair, axis=0)[0].tolist(), strict=True)) for pair in pairwise(counts)]
    for row, expected in zip(found, ((50, 50), (75, 25), (100, 0), (100, 0)), strict=True):
        assert (row["a"], row["b"]) == pytest.approx(expected, abs=4) and row["c"] == 0
    lengths = [corpus.length_at(token) for token in (0, 6394, 6395, 9599, 9600, 10**12)]
    assert lengths == [32, 32, 8, 8, 32, 32]


def test_an_epochs_cap_ends_the_corpus(folder):
    corpus = opened(folder, {"a": {"max_epochs": 2}, "b": {"max_epochs": 0.5}})
    sizes = {source.name: len(windows) for source, windows in zip(corpus.mixture.sources, corpus.windows, strict=True)}
    assert corpus.end == (2 * sizes["a"] + sizes["b"] // 2) * LENGTH
    assert any("2.00 epochs" in line and line.startswith("a:") for line in corpus.describe(10**9))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({}, "exactly one of train"),
        ({"train": "x", "sources": {"a": {}}}, "exactly one of train"),
        ({"sources": {}}, "data.sources is empty"),
        ({"sources": {"a": {"weight": 1}, "b": {}}}, "data.sources: b has no weight, others have one"),
        ({"sources": {"a": {"weight": 0}, "b": {"weight": 0}}}, "from token 0 on no source has a weight above 0"),
        (
            {"sources": {"a": {"weight": 1}}, "curriculum": [{"from_tokens": 96, "weights": {"a": 0}}]},
            "from token 96 on no source has a weight above 0",
        ),
        (
            {"sources": {"a": {"weight": 1}}, "curriculum": [{"from_tokens": 5, "weights": {"d": 1}}]},
            "weights of d; the sources are a",
        ),
        ({"sources": {"a": {}}, "curriculum": [{"from_tokens": 5, "weights": {"a": 1}}]}, "but the sources have none"),
        (
            {"sources": {"a": {}}, "curriculum": [{"from_tokens": 9, "sequence_length": 8}, {"from_tokens": 9}]},
            "from_tokens must rise, but 9 comes after 9",
        ),
        (
            {"sources": {"a": {}}, "curriculum": [{"from_tokens": 0, "sequence_length": 24}]},
            "takes equal parts. Near it: 4, 8, 16, 32",
        ),
        ({"sources": {"a": {}, "nowhere": {}}}, "data.sources.nowhere.shards"),
        ({"sources": {"a": {"packing": "best_fit"}}}, "data_prep pack"),
        ({"sources": {"a": {"max_epochs": 1, "weight": 1}, "b": {"weight": 0}},
          "curriculum": [{"from_tokens": 10**6, "weights": {"b": 1}}]}, "the next weights come at token 1,000,000. Raise"),
        ({"sources": {"a": {"max_documents": 3}}}, 'and the packing is "concatenate"'),
        ({"sources": {"a": {}}, "max_documents": 3}, 'no source has packing "best_fit"'),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_its_key(folder, data, said):
    with pytest.raises(CorpusError) as refusal:
        opened(folder, **data)
    assert said in str(refusal.value)


@pytest.mark.parametrize("section", [{"weight": -1}, {"weight": float("inf")}, {"max_epochs": 0}, {"wieght": 1}])
def test_impossible_numbers_are_refused_where_they_stand(folder, section):
    with pytest.raises(ValidationError):
        opened(folder, {"a": section})


def test_the_same_corpus_under_two_names_is_refused(folder):
    with pytest.raises(CorpusError, match="x and y are the same windows"):
        opened(folder, {name: {"shards": str(folder / "a")} for name in "xy"})


def test_sources_of_two_tokenizers_are_refused(folder, tmp_path):
    other = write_shards(tmp_path / "other", fingerprint="cd" * 32)
    with pytest.raises(CorpusError, match=r"data\.sources\.other\.shards was written with another tokenizer"):
        opened(folder, {"a": {}, "other": {"shards": str(other)}})
