"""The data order of several sources: exact shares, every window of an epoch once, and a past that nothing later changes."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trainer.data.mixture import BITS, Mixture, MixtureError, Source, Stage

NAMES = "abcde"
weights = st.sampled_from([Fraction(0), Fraction(1, 1000), Fraction(1, 7), Fraction(1), Fraction(3), Fraction(0.1)])


def source(name: str, windows: int, fill: Fraction = Fraction(1), epochs: Fraction | None = None) -> Source:
    most = None if epochs is None else max(1, int(epochs * windows))
    return Source(name, f"fingerprint of {name}", windows, max(1, int(windows * 16 * fill)), most)


@st.composite
def mixtures(draw, endless: bool = False):
    """(sources, stages, seed) of a mixture that does not end early."""
    count = draw(st.integers(1, 4))
    epochs = st.none() if endless else st.none() | st.sampled_from([Fraction(1, 2), Fraction(1), Fraction(7, 2)])
    sources = [
        source(NAMES[i], draw(st.integers(1, 60)), draw(st.sampled_from([Fraction(1), Fraction(1, 3)])), draw(epochs))
        for i in range(count)
    ]
    starts = [0, *sorted(draw(st.sets(st.integers(1, 300), max_size=3)))]
    stages = [Stage(start, {s.name: draw(weights) for s in sources}) for start in starts]
    assume(all(any(stage.weights.values()) for stage in stages))
    return sources, stages, draw(st.integers(0, 2**63 - 1))


def made(sources, stages, seed) -> Mixture:
    try:
        return Mixture(sources, stages, seed)
    except MixtureError as error:
        assert "used up" in str(error)  # by their own max_epochs, before the next stage
        assume(False)
        raise


def order(mixture: Mixture, count: int) -> list[tuple[str, int]]:
    """(source's name, window) of the first windows, fewer when the sources end."""
    count = count if mixture.end is None else min(count, mixture.end)
    numbers, windows = mixture.locate(0, count)
    return [(mixture.sources[n].name, w) for n, w in zip(numbers.tolist(), windows.tolist(), strict=True)]


@settings(max_examples=150, deadline=None)
@given(mixtures())
def test_every_window_of_every_epoch_once_and_no_epoch_too_many(given_mixture):
    mixture = made(*given_mixture)
    taken: dict[str, list[int]] = {}
    for name, window in order(mixture, 500):
        taken.setdefault(name, []).append(window)
    for one in mixture.sources:
        windows = taken.get(one.name, [])
        for epoch in range(0, len(windows), one.windows):
            part = windows[epoch : epoch + one.windows]
            assert len(set(part)) == len(part) and set(part) <= set(range(one.windows))
        if one.max_windows is not None:
            assert len(windows) <= one.max_windows
    if mixture.end is not None:
        last, counts = given_mixture[1][-1].weights, mixture.counts(mixture.end).tolist()
        assert all(count == one.max_windows for one, count in zip(mixture.sources, counts, strict=True) if last[one.name])
        with pytest.raises(MixtureError, match=f"used up after {mixture.end:,} windows"):
            mixture.locate(mixture.end - 1, 2)


@settings(max_examples=100, deadline=None)
@given(mixtures(), st.lists(st.integers(1, 90), min_size=1, max_size=8))
def test_any_slicing_gives_the_same_order(given_mixture, cuts):
    mixture = made(*given_mixture)
    assume(mixture.end is None or mixture.end >= sum(cuts))
    whole = mixture.locate(0, sum(cuts))
    starts = np.concatenate([[0], np.cumsum(cuts)[:-1]]).tolist()
    parts = [made(*given_mixture).locate(start, count) for start, count in zip(starts, cuts, strict=True)]
    for kind in (0, 1):
        assert np.array_equal(np.concatenate([part[kind] for part in parts]), whole[kind])


@settings(max_examples=100, deadline=None)
@given(mixtures(), st.integers(0, 500))
def test_counts_and_positions_are_those_of_the_order(given_mixture, position):
    mixture = made(*given_mixture)
    taken = order(mixture, 500)
    before = taken[:position]
    count = Counter(name for name, _ in before)
    assume(mixture.end is None or position <= mixture.end)
    assert mixture.counts(position).tolist() == [count[one.name] for one in mixture.sources]
    for number, one in enumerate(mixture.sources):
        asked = np.unique([0, one.windows - 1])
        expected = [(at, window) for at, (name, window) in enumerate(before) if name == one.name and window in asked]
        positions, which = mixture.positions(number, asked, position)
        assert list(zip(positions.tolist(), asked[which].tolist(), strict=True)) == expected


@settings(max_examples=60, deadline=None)
@given(mixtures(endless=True), st.integers(1, 3000))
def test_shares_by_tokens_hold_at_every_moment(given_mixture, position):
    sources, stages, seed = given_mixture
    mixture = Mixture(sources, stages[:1], seed)
    wanted = {one.name: stages[0].weights[one.name] * one.windows / one.tokens for one in sources}  # windows, not tokens
    total = sum(wanted.values())
    for one, count in zip(mixture.sources, mixture.counts(position).tolist(), strict=True):
        assert abs(count - position * wanted[one.name] / total) <= np.log2(position) / 2 + 2


@settings(max_examples=60, deadline=None)
@given(mixtures(), st.integers(1, 400), st.integers(1, 60), st.data())
def test_what_is_added_later_changes_only_what_follows(given_mixture, moment, windows, data):
    sources, stages, seed = given_mixture
    first = made(*given_mixture)
    taken = order(first, moment)
    assume(len(taken) == moment)
    new = Source("new", data.draw(st.sampled_from(["a before all", "fingerprint of b and more", "zzz"])), windows, 16 * windows)
    kept = [Stage(stage.first_window, {**stage.weights, "new": Fraction(0)}) for stage in stages if stage.first_window < moment]
    later = Stage(moment, {**kept[-1].weights, "new": data.draw(st.sampled_from([Fraction(1), Fraction(1, 9)]))})
    extended = made(data.draw(st.permutations([*sources, new])), [*kept, later], seed)
    assert order(extended, moment) == taken
    assert extended.history(moment) == first.history(moment)


def test_histories_differ_when_the_past_does():
    sources = [source("a", 50), source("b", 70)]
    half = {"a": Fraction(1), "b": Fraction(1)}
    first = Mixture(sources, [Stage(0, half)], 1).history(100)
    others = [
        Mixture(sources, [Stage(0, half)], 2),
        Mixture(sources, [Stage(0, {"a": Fraction(1), "b": Fraction(2)})], 1),
        Mixture(sources, [Stage(0, half), Stage(99, {"a": Fraction(1), "b": Fraction(2)})], 1),
        Mixture([source("a", 50), source("c", 70)], [Stage(0, {"a": Fraction(1), "c": Fraction(1)})], 1),
        Mixture([source("a", 50), source("b", 70, epochs=Fraction(1, 2))], [Stage(0, half)], 1),
    ]
    assert all(other.history(100) != first for other in others)
    assert Mixture(sources, [Stage(0, half), Stage(100, {"a": Fraction(1), "b": Fraction(0)})], 1).history(100) == first
    renamed = [Source("x", sources[0].fingerprint, 50, 800), sources[1]]
    assert Mixture(renamed[::-1], [Stage(0, {"b": Fraction(1), "x": Fraction(1)})], 1).history(100) == first


def test_a_source_that_is_used_up_leaves_its_share_to_the_others():
    sources = [source("a", 10, epochs=Fraction(2)), source("b", 1000)]
    mixture = Mixture(sources, [Stage(0, {"a": Fraction(1), "b": Fraction(1)})], 5)
    taken = [name for name, _ in order(mixture, 200)]
    last = max(at for at, name in enumerate(taken) if name == "a")
    assert taken.count("a") == 20 and 35 <= last <= 45 and len(mixture.segments) == 2
    assert mixture.segments[1].start == last + 1


@given(epochs=st.integers(1, 3), sizes=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_all_epochs_of_all_sources_are_used_to_the_last_window(epochs, sizes):
    sources = [source(NAMES[i], size, epochs=Fraction(epochs)) for i, size in enumerate(sizes)]
    mixture = Mixture(sources, [Stage(0, {one.name: Fraction(i + 1) for i, one in enumerate(sources)})], 3)
    assert mixture.end == epochs * sum(sizes)
    assert set(Counter(order(mixture, mixture.end)).values()) == {epochs}


def test_sources_used_up_before_the_next_stage_are_refused():
    sources = [source("a", 10, epochs=Fraction(1)), source("b", 10)]
    stages = [Stage(0, {"a": Fraction(1), "b": Fraction(0)}), Stage(20, {"a": Fraction(0), "b": Fraction(1)})]
    with pytest.raises(MixtureError, match="used up after 10 windows, but the next weights come at window 20"):
        Mixture(sources, stages, 1)


def test_the_same_windows_twice_are_refused():
    twin = Source("b", source("a", 10).fingerprint, 10, 160)
    with pytest.raises(MixtureError, match="a and b are the same windows"):
        Mixture([source("a", 10), twin], [Stage(0, {"a": Fraction(1), "b": Fraction(1)})], 1)


def test_a_weight_too_small_to_count_is_refused_and_one_just_large_enough_is_not():
    sources = [source("a", 10**12, epochs=Fraction(1)), source("b", 10)]
    with pytest.raises(MixtureError, match=r"the weight of a is 1\.0e-13 of the windows, too little"):
        Mixture(sources, [Stage(0, {"a": Fraction(1), "b": Fraction(10**13)})], 1)
    mixture = Mixture(sources, [Stage(0, {"a": Fraction(1), "b": Fraction(10**11)})], 1)
    assert mixture.end is None and mixture.counts(2**40)[mixture.sources.index(sources[0])] == 10


@pytest.mark.parametrize("start", [0, 2**40 - 700, 2**40 + 5, 3 * 2**40 - 100])
def test_positions_beyond_the_pattern(start):
    """1 T windows and more: the pattern repeats, the sources' windows do not."""
    sources = [source("a", 2**50), source("b", 2**45)]
    mixture = Mixture(sources, [Stage(0, {"a": Fraction(2), "b": Fraction(1)})], 9)
    assert BITS == 40
    numbers, windows = mixture.locate(start, 1000)
    for number in (0, 1):
        mine = windows[numbers == number]
        assert len(set(mine.tolist())) == len(mine)
        assert mixture.counts(start + 1000)[number] - mixture.counts(start)[number] == len(mine)
    assert abs((numbers == 0).sum() - 667) < 15
    at = int(np.flatnonzero(numbers == 1)[5])
    assert [found.tolist() for found in mixture.positions(1, windows[at : at + 1], start + 1000)] == [[start + at], [0]]


def test_all_windows_of_a_long_run_are_found_at_once():
    sources = [source("a", 1000), source("b", 7)]
    mixture = Mixture(sources, [Stage(0, {"a": Fraction(2), "b": Fraction(1)}), Stage(60_000, {"a": Fraction(1)})], 9)
    count = 200_000
    numbers, windows = mixture.locate(0, count)
    for number, one in enumerate(mixture.sources):
        positions, which = mixture.positions(number, np.arange(one.windows), count)
        assert np.array_equal(positions, np.flatnonzero(numbers == number))
        assert np.array_equal(which, windows[numbers == number])


def test_epochs_seeds_and_corpora_differ():
    alone = {"a": Fraction(1)}
    first = Mixture([source("a", 500)], [Stage(0, alone)], 1)
    orders = [first.locate(0, 500)[1], first.locate(500, 500)[1]]
    orders.append(Mixture([source("a", 500)], [Stage(0, alone)], 2).locate(0, 500)[1])
    orders.append(Mixture([Source("a", "another", 500, 8000)], [Stage(0, alone)], 1).locate(0, 500)[1])
    assert len({tuple(o.tolist()) for o in orders}) == 4


def test_sources_alternate_and_do_not_come_in_heaps():
    sources = [source("a", 5000), source("b", 5000), source("c", 5000)]
    mixture = Mixture(sources, [Stage(0, {"a": Fraction(1), "b": Fraction(2), "c": Fraction(1)})], 3)
    numbers, _ = mixture.locate(0, 4096)
    for start in range(0, 4096, 64):
        assert np.abs(np.bincount(numbers[start : start + 64], minlength=3) - [16, 32, 16]).max() <= 3
