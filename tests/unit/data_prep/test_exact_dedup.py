"""Exact deduplication: the first stays."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup import exact, external_sort
from data_prep.document import Document, read_documents, read_records, write_documents
from data_prep.holdout import holdout_key
from data_prep.stage import Parts, Runner

TEXTS = st.lists(st.sampled_from(["a", "a ", " b\tb", "b b", "C", "c", ""]), max_size=30)


@settings(deadline=None, max_examples=40)
@given(TEXTS, st.integers(0, 30), st.integers(50, 2000))
def test_first_occurrences_against_brute_force(texts, cut, memory):
    documents = [Document(f"d{n}", text, "s", {}) for n, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "MEMORY_BYTES", memory)
        patch.setattr(external_sort, "RANGE_PAIRS", 4)
        files = [Path(folder) / f"part-{index:05d}.jsonl.zst" for index in range(2)]
        write_documents(files[0], documents[:cut])
        write_documents(files[1], documents[cut:])
        unique = exact.run(Runner(1), Path(folder) / "out", Parts.of_files(files))
        kept = [document.id for file in unique.files for document in read_documents(file)]
        dropped = [record for file in unique.files for record in read_records(dropped_of(file))]
    normal = [exact.normalise(text) for text in texts]
    firsts = [normal.index(text) for text in normal]
    assert kept == [f"d{n}" for n, first in enumerate(firsts) if first == n]
    assert {record["id"]: record["kept_instead"] for record in dropped} == {
        f"d{n}": f"d{first}" for n, first in enumerate(firsts) if first != n
    }


def dropped_of(file: Path) -> Path:
    return file.with_name(file.name.replace(".kept.", ".dropped."))


def test_what_counts_as_equal():
    assert exact.normalise("Cafe\u0301  au\n\tlait ") == exact.normalise("Caf\u00e9 au lait")
    assert exact.normalise("Cafe") != exact.normalise("cafe")
    assert exact.normalise("cafe.") != exact.normalise("cafe")


def test_holdout_keys_are_even_and_depend_on_the_seed():
    keys = np.array([holdout_key(f"doc {n}", 0) for n in range(4000)], dtype=np.float64) / 2**64
    assert abs(keys.mean() - 0.5) < 0.02
    assert holdout_key("doc 1", 0) != holdout_key("doc 1", 1)
