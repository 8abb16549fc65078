"""Learning rates as functions of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trainer.lr_schedule import ScheduleSection, learning_rate

PEAK = 3e-4
sections = st.builds(
    lambda kind, total, warmup, ratio, shape: ScheduleSection(
        type=kind, total_tokens=total, warmup_tokens=int(total * warmup), min_lr_ratio=ratio, decay_shape=shape
    ),
    st.sampled_from(["cosine", "wsd", "constant"]),
    st.integers(1000, 10**9),
    st.floats(0, 0.75),
    st.floats(0, 1),
    st.sampled_from(["linear", "1-sqrt"]),
)


@given(section=sections, share=st.floats(0, 1.5))
def test_bounds(section, share):
    rate = learning_rate(section, PEAK, int(section.total_tokens * share))
    assert 0 <= rate <= PEAK * (1 + 1e-12)


@given(section=sections)
def test_landmarks(section):
    lowest = PEAK * section.min_lr_ratio
    assert learning_rate(section, PEAK, section.warmup_tokens) == pytest.approx(PEAK)
    if section.warmup_tokens > 1:
        assert learning_rate(section, PEAK, 0) == 0
        half = section.warmup_tokens // 2
        assert learning_rate(section, PEAK, half) == pytest.approx(PEAK * half / section.warmup_tokens)
    end = learning_rate(section, PEAK, section.total_tokens)
    assert end == pytest.approx(PEAK if section.type == "constant" else lowest, abs=1e-12)
    assert learning_rate(section, PEAK, 2 * section.total_tokens) == pytest.approx(end, abs=1e-12)


@given(section=sections, shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_never_rises_after_the_warmup(section, shares):
    earlier, later = sorted(section.warmup_tokens + int(s * (section.total_tokens - section.warmup_tokens)) for s in shares)
    assert learning_rate(section, PEAK, later) <= learning_rate(section, PEAK, earlier) * (1 + 1e-12)


def test_gpt3():
    section = ScheduleSection(total_tokens=300 * 10**9, warmup_tokens=375 * 10**6, decay_tokens=260 * 10**9)
    assert learning_rate(section, 6e-4, 187_500_000) == pytest.approx(3e-4)
    assert learning_rate(section, 6e-4, 260 * 10**9) == pytest.approx(6e-5)
    assert learning_rate(section, 6e-4, 290 * 10**9) == pytest.approx(6e-5)


def test_wsd_is_flat_then_falls_over_its_last_fifth():
    section = ScheduleSection(type="wsd", total_tokens=1000, min_lr_ratio=0, decay_shape="linear")
    assert learning_rate(section, 1.0, 800) == 1.0
    assert learning_rate(section, 1.0, 900) == pytest.approx(0.5)
    root = ScheduleSection(type="wsd", total_tokens=1000, min_lr_ratio=0)
    assert learning_rate(root, 1.0, 850) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"total_tokens": 10, "warmup_tokens": 10}, "warmup_tokens 10 must be less than total_tokens 10"),
        ({"total_tokens": 10, "warmup_tokens": 5, "decay_tokens": 5}, "must exceed warmup_tokens 5"),
        ({"type": "wsd", "total_tokens": 10, "warmup_tokens": 5, "decay_tokens": 6}, "together exceed total_tokens 10"),
        ({"type": "constant", "total_tokens": 10, "decay_tokens": 6}, "no meaning"),
    ],
)
def test_impossible_lengths(values, message):
    with pytest.raises(ValidationError, match=message):
        ScheduleSection(**values)
