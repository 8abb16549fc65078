"""Near-duplicates: the arithmetic against plain Python, the sort and the clusters against brute force, and whole runs."""

from __future__ import annotations

import random
import tempfile
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.dedup import external_sort, minhash, ragged, signatures, union_find, words
from data_prep.dedup.external_sort import Run, RunWriter, groups, range_tasks, read_sorted
from data_prep.dedup.minhash import MinHashSettings
from data_prep.dedup.numbering import Numbering
from data_prep.document import Document, read_documents, read_records, write_documents
from data_prep.stage import Parts, Runner

PAIRS = st.lists(st.tuples(st.one_of(st.integers(0, 3), st.integers(0, 2**64 - 1)), st.integers(0, 5)), max_size=80)
TINY = 300  # bytes: three pairs at a time


def write_runs(folder: Path, pairs: list[tuple[int, int]], runs: int = 3) -> list[Run]:
    written = []
    for index in range(runs):
        writer = RunWriter(folder, f"r{index}", TINY)
        array = np.array(pairs[index::runs], np.uint64).reshape(-1, 2)
        writer.add(array[:, 0], array[:, 1])
        written += [Run(folder / name) for name in writer.close()]
    return written


@settings(deadline=None, max_examples=60)
@given(PAIRS, st.integers(0, 4), st.integers(3, 2**64))
def test_a_sorted_set_larger_than_memory(pairs, low, high):
    with tempfile.TemporaryDirectory() as folder:
        runs = write_runs(Path(folder), pairs)
        pieces = list(read_sorted(runs, TINY, low, high))
        assert all(len(piece) <= 3 for piece in pieces)
        assert [tuple(pair) for piece in pieces for pair in piece.tolist()] == sorted(
            {pair for pair in pairs if low <= pair[0] < high}
        )


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 3), st.integers(2**64 - 9, 2**64 - 1), st.integers(0, 2**64 - 1)),
            st.sampled_from([0, 1, 2**40, 2**64 - 1]),
        ),
        max_size=80,
    )
)
def test_sorting_pairs_as_numbers(pairs):
    array = np.array(pairs, np.uint64).reshape(-1, 2)
    for some in (array, array[:, ::-1], array[:1]):
        if len(some):
            assert list(map(tuple, external_sort._sorted(some).tolist())) == sorted(map(tuple, some.tolist()))


@settings(deadline=None, max_examples=60)
@given(PAIRS)
def test_groups_go_on_over_pieces(pairs):
    with tempfile.TemporaryDirectory() as folder:
        firsts = {}
        for piece, starts in groups(read_sorted(write_runs(Path(folder), pairs), TINY)):
            for pair, start in zip(piece.tolist(), starts.tolist(), strict=True):
                assert firsts.setdefault(pair[0], piece[start, 1]) == piece[start, 1]
        assert firsts == {first: min(b for a, b in pairs if a == first) for first, _ in pairs}


def test_document_numbers_are_shifted_when_read(tmp_path):
    (run,) = write_runs(tmp_path, [(7, 0), (7, 1)], runs=1)
    pieces = read_sorted([run, Run(run.path, 2)], TINY)
    assert np.concatenate(list(pieces)).tolist() == [[7, 0], [7, 1], [7, 2], [7, 3]]


def test_ranges_cover_everything_once():
    ranges = [task.arguments for task in range_tasks(2**64, 5_000_000, lambda low, high: (low, high), "")]
    assert len(ranges) == 5 and ranges[0][0] == 0 and ranges[-1][1] == 2**64
    assert all(a[1] == b[0] for a, b in pairwise(ranges))
    assert len(range_tasks(3, 10**12, lambda low, high: None, "")) == 3


def clusters_of(links: list[tuple[int, int]]) -> dict[int, int]:
    parent: dict[int, int] = {}

    def root(node: int) -> int:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for a, b in links:
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    return {node: root(node) for node in parent if root(node) != node}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 25), st.integers(0, 25)).filter(lambda link: link[0] != link[1]), max_size=40))
def test_clusters_against_a_union_find_in_memory(links):
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "scratch"
        scratch.mkdir()
        found = union_find.components(write_runs(Path(folder), links), scratch, 2 * TINY)
        assert {a: b for piece in read_sorted(found, TINY) for a, b in piece.tolist()} == clusters_of(links)
        assert {run.path for run in found} == set(scratch.iterdir())


def test_a_long_chain_is_one_cluster(tmp_path):
    order = random.Random(0).sample(range(300), 300)
    (tmp_path / "scratch").mkdir()
    runs = write_runs(tmp_path, list(pairwise(order)))
    found = union_find.components(runs, tmp_path / "scratch", 100 * TINY)
    assert np.concatenate(list(read_sorted(found, 2**20))).tolist() == [[node, 0] for node in range(1, 300)]


def test_arrays_by_document_number(tmp_path):
    numbering = Numbering(["a", "b"], [2, 3])
    for name, ids in (("a", ["x", ""]), ("b", ["é", "long id", "z"])):
        writer = ragged.write_ids(tmp_path, name)
        for id in ids:
            writer.add(*ragged.encode_ids([id]))
        writer.close()
    numbering = Numbering.read(numbering.write(tmp_path / "numbering.json"))
    assert numbering.range_of("b") == (2, 5)
    assert ragged.read_ids(tmp_path, numbering, np.array([0, 1, 3, 4], np.uint64)) == ["x", "", "long id", "z"]
    assert ragged.read_ids(tmp_path, numbering, np.array([2])) == ["é"]


# letters with and without composition, scripts without spaces, marks, digits, separators, a lone surrogate
ALPHABET = "aB7ß İé\u0301e\u0301\n.,'-_“ｶかが\u3099漢字สวัสดีकि😀\ud800한"


def plain_words(text: str) -> list[str]:
    text = unicodedata.normalize("NFC", text.lower())
    spaced = "".join(
        f" {c} " if unicodedata.category(c)[0] != "M" and any(a <= ord(c) <= b for a, b in words.UNSPACED) else c
        for c in (c if unicodedata.category(c)[0] in "LNM" else " " for c in text)
    )
    return [word for word in spaced.split(" ") if word]


@given(st.lists(st.text(ALPHABET, max_size=30), max_size=5))
def test_words_against_plain_python(texts):
    hashes, bounds = words.hash_words(texts)
    expected = [plain_words(text) for text in texts]
    assert np.diff(bounds).tolist() == [len(each) for each in expected]
    names = dict(zip(hashes.tolist(), (word for each in expected for word in each), strict=True))
    assert [names[value] for value in hashes.tolist()] == [word for each in expected for word in each]
    assert len(names) == len({word for each in expected for word in each})


@given(st.text(ALPHABET, max_size=30).map(lambda text: unicodedata.normalize("NFC", text)))
def test_places_of_words(text):
    starts, ends = words.spans(text)
    hashes, _ = words.hash_words([text])
    singly = [words.hash_words([text[a:b]])[0].tolist() for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]
    assert singly == [[value] for value in hashes.tolist()]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=5), st.integers(1, 5), st.booleans())
def test_ngrams_against_plain_python(texts, n, whole):
    hashes, bounds = words.hash_words([" ".join(text) for text in texts])
    grams, first, ends = words.hash_ngrams(hashes, bounds, n, whole)
    expected = [
        [tuple(text[i : i + n]) for i in range(len(text) - n + 1)] or ([tuple(text)] if text and whole else [])
        for text in texts
    ]
    assert np.diff(ends).tolist() == [len(each) for each in expected]
    flat = [gram for each in expected for gram in each]
    assert len(set(zip(grams.tolist(), flat, strict=True))) == len(set(flat)) == len(set(grams.tolist()))
    assert [hashes[i] for i in first.tolist()] == [words.hash_words([gram[0]])[0][0] for gram in flat]


def test_hashes_are_the_same_for_ever():
    """Signatures on disk would else be of two kinds after an update."""
    hashes, bounds = signatures.shingles(["One two three four five six.", "één", ""], 5)
    signed = signatures.sign(hashes, bounds, 12, 0)
    assert hashes.tolist() == HASHES
    assert signatures.band_hashes(signed, 2)[:2].ravel().tolist() == BANDS


HASHES = [2361416444, 3034386054, 1121925286]
BANDS = [17979444520139682306, 10934637526014188528, 6440385653193516568, 13659343054525329551]


def test_what_is_shared_with_other_texts_does_not_matter():
    texts = [prose(random.Random(n), 3 + 40 * n) for n in range(12)] + ["", "漢字" * 40]
    together = signatures.sign(*signatures.shingles(texts, 5), 60, 3)
    singly = [signatures.sign(*signatures.shingles([text], 5), 60, 3)[0] for text in texts]
    assert (together == np.array(singly)).all()


def test_a_long_text_is_cut_the_same_alone_and_among_others(monkeypatch):
    monkeypatch.setattr(words, "BATCH_CHARACTERS", 1000)
    texts = [prose(random.Random(n), 400) for n in range(3)]
    hashes, bounds = words.hash_words(texts)
    for n, text in enumerate(texts):
        alone, _ = words.hash_words([text])
        assert hashes[bounds[n] : bounds[n + 1]].tolist() == alone.tolist()
        assert len(words.spans(text)[0]) == len(alone)


@pytest.mark.parametrize("shared", [30, 400, 20_000])
@pytest.mark.parametrize("similarity", [0.0, 0.5, 0.8])
def test_signatures_and_sketches_estimate_jaccard(shared, similarity):
    rng = np.random.default_rng(shared)
    own = round(shared * (1 / similarity - 1) / 2) if similarity else shared
    values = rng.choice(2**32, shared + 2 * own, replace=False).astype(np.uint32)
    a, b = np.sort(values[: shared + own]), np.sort(values[own:] if similarity else values[shared + own :])
    if similarity:
        a, b = np.sort(np.concatenate((values[:own], values[2 * own :]))), np.sort(values[own:])
    true = len(np.intersect1d(a, b)) / len(np.union1d(a, b))
    both, bounds = np.concatenate((a, b)), np.array([0, len(a), len(a) + len(b)])
    signed = signatures.sign(both, bounds, 2000, 1)
    assert abs((signed[0] == signed[1]).mean() - true) < 4 * np.sqrt(0.25 / 2000)
    sketches, counts = signatures.sketch(both, bounds, 1024)
    estimate = signatures.jaccard(*np.split(sketches, np.cumsum(counts)[:-1]))
    assert abs(estimate - true) <= (0 if max(len(a), len(b)) <= 1024 else 4 * np.sqrt(0.25 / 1024))


def prose(rng: random.Random, count: int) -> str:
    return " ".join(
        f"{rng.choice('bcdfgklmnprst')}{rng.choice('aeiou')}{rng.choice('bdglmnrst')}{rng.randrange(30)}" for _ in range(count)
    )


def corpus() -> list[Document]:
    """Texts, each followed by copies with ever more words changed; unrelated, empty and one-word texts among them."""
    rng, texts = random.Random(1), []
    for length in (60, 150, 400, 2000):
        for _ in range(6):
            original = prose(rng, length).split()
            texts.append(" ".join(original))
            for share in (0, 0.01, 0.02, 0.05, 0.1):
                copy = list(original)
                for place in rng.sample(range(length), round(share * length)):
                    copy[place] = "changed"
                texts.append(" ".join(copy).upper() + "!")
    texts += [prose(rng, 100) for _ in range(60)] + [
        "",
        "...",
        "Yes.",
        "yes",
        "no",
        "東京は日本の首都です。",
        "東京は 日本の首都です",
    ]
    rng.shuffle(texts)
    return [Document(f"d{n}", text, "s", {}) for n, text in enumerate(texts)]


def shingle_set(text: str) -> set[tuple[str, ...]]:
    named = plain_words(text)
    return {tuple(named[i : i + 5]) for i in range(max(1, len(named) - 4))} if named else set()


def jaccard(a: set, b: set) -> float:
    common = len(a & b)
    return common / max(1, len(a) + len(b) - common)


def deduplicate(folder: Path, documents: list[Document], sizes: list[int], **changes) -> Parts:
    files, start = [], 0
    folder.mkdir()
    for index, size in enumerate(sizes):
        files.append(folder / f"part-{index:05d}.jsonl.zst")
        write_documents(files[-1], documents[start : start + size])
        start += size
    assert start == len(documents)
    return minhash.run(Runner(1), folder / "dedup", Parts.of_files(files), MinHashSettings(**changes), 5)


def kept_ids(parts: Parts) -> list[str]:
    return [document.id for file in parts.files for document in read_documents(file)]


def test_the_first_of_each_cluster_stays(tmp_path):
    documents = corpus()
    parts = deduplicate(tmp_path / "a", documents, [100, 0, len(documents) - 100], bands=40, rows=5)
    sets = [shingle_set(document.text) for document in documents]
    links = [(i, j) for j in range(len(sets)) for i in range(j) if jaccard(sets[i], sets[j]) >= 0.8]
    clusters = clusters_of(links)
    assert len(clusters) > 50
    assert kept_ids(parts) == [document.id for n, document in enumerate(documents) if n not in clusters]
    dropped = [record for file in parts.files for record in read_records(Path(str(file).replace(".kept.", ".dropped.")))]
    assert {record["id"]: record["kept_instead"] for record in dropped} == {f"d{a}": f"d{b}" for a, b in clusters.items()}
    for record in dropped:
        kept, repeats = (sets[int(id[1:])] for id in (record["kept_instead"], record["id"]))
        assert record["reason"] == "near duplicate"
        assert abs(float(record["detail"].split()[1]) - jaccard(kept, repeats)) < (0.05 if len(kept) > 1000 else 0.001)


def test_kept_documents_depend_on_neither_parts_nor_memory_nor_order_of_tasks(tmp_path, monkeypatch):
    documents = corpus()
    expected = kept_ids(deduplicate(tmp_path / "a", documents, [len(documents)]))
    monkeypatch.setattr("data_prep.dedup.external_sort.RANGE_PAIRS", 500)
    monkeypatch.setattr(MinHashSettings, "memory_bytes", 20_000)
    sizes = [1, 50, 7, 0, 90]
    assert kept_ids(deduplicate(tmp_path / "b", documents, [*sizes, len(documents) - sum(sizes)])) == expected


def test_a_thousand_copies_take_linear_work(tmp_path):
    text = prose(random.Random(3), 200)
    documents = [Document(f"d{n}", f"{text} {n}", "s", {}) for n in range(1000)]
    parts = deduplicate(tmp_path / "a", documents, [1000])
    assert kept_ids(parts) == ["d0"]
    compared = sum(len(piece) for piece in read_sorted(_runs(tmp_path / "a" / "dedup" / "pairs"), 2**20))
    assert compared < 1000 * 2 * (minhash.NEIGHBOURS + 1) * 2


def _runs(folder: Path) -> list[Run]:
    return [Run(path) for path in sorted(folder.glob("*.run"))]
