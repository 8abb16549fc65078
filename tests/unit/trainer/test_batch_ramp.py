"""The batch over a run: exact at every rung, a function of the tokens seen."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.batch import BatchError, BatchSection, RampSection
from trainer.batch_ramp import plan_batches


def section(full: int, start: int, over: int, **more) -> BatchSection:
    increment = more.pop("increment", "auto")
    ramp = RampSection(start_tokens=start, over_tokens=over, increment_tokens=increment)
    return BatchSection(global_batch_tokens=full, ramp=ramp, **more)


@settings(max_examples=150, deadline=None)
@given(
    length=st.integers(1, 64), ranks=st.integers(1, 8), micro=st.integers(1, 4) | st.just("auto"), start=st.integers(1, 12),
    increment=st.integers(1, 12), rungs=st.integers(1, 12), over=st.integers(1, 200_000),
)  # fmt: skip
def test_every_step_has_the_batch_that_its_first_token_says(length, ranks, micro, start, increment, rungs, over):
    unit = length * ranks * (1 if micro == "auto" else micro)
    start, increment = start * unit, increment * unit
    full = start + rungs * increment
    schedule = plan_batches(section(full, start, over, micro_batch_size=micro, increment=increment), length, ranks)
    tokens = 0
    for step in range(200):
        batch = schedule.at(tokens)
        expected = min(full, start + increment * (tokens * rungs // over))
        product = length * batch.micro_batch_size * batch.gradient_accumulation_steps * ranks
        assert batch.global_batch_tokens == product == expected
        assert batch.micro_batch_size == schedule.full.micro_batch_size
        assert schedule.tokens_after(step) == tokens
        assert schedule.steps(tokens + 1) == schedule.steps(tokens + expected) == step + 1
        tokens += expected
    assert schedule.rungs[-1].batch.global_batch_tokens == full and schedule.rungs[-1].first_token >= over


def test_gpt3s_ramp():
    """32 thousand to 3.2 million tokens over 4 billion (arXiv 2005.14165, section 2.3), on 16 ranks."""
    schedule = plan_batches(section(3145728, 32768, 4 * 10**9), 2048, 16)
    assert [rung.batch.global_batch_tokens for rung in schedule.rungs] == list(range(32768, 3145729, 32768))
    assert schedule.full.micro_batch_size == 1 and schedule.full.gradient_accumulation_steps == 96
    last = schedule.rungs[-1]
    assert last.first_token >= 4 * 10**9 > last.first_token - 3145728
    assert (
        sum(
            (after.first_step - rung.first_step) * rung.batch.global_batch_tokens
            for rung, after in zip(schedule.rungs, schedule.rungs[1:], strict=False)
        )
        == last.first_token
    )


def test_extending_a_ramp_changes_no_step_before_the_change():
    short, long = (plan_batches(section(8 * 64, 64, over), 16, 2) for over in (7_000, 14_000))
    assert [short.at(t).global_batch_tokens for t in (0, 64, 960)] == [long.at(t).global_batch_tokens for t in (0, 64, 960)]
    assert short.at(1024) != long.at(1024)


def test_no_ramp_is_one_rung():
    schedule = plan_batches(BatchSection(global_batch_tokens=512), 16, 2)
    assert [schedule.at(t) for t in (0, 512, 10**15)] == [schedule.full] * 3
    assert (schedule.steps(1), schedule.steps(512), schedule.steps(513), schedule.tokens_after(7)) == (1, 1, 2, 3584)
    assert schedule.describe() == ""


@pytest.mark.parametrize(
    ("given_section", "said"),
    [
        (section(1024, 100, 5000, micro_batch_size=2), "batch.ramp.start_tokens = 100 is not a multiple of 64 = 16"),
        (section(1024, 32, 5000, micro_batch_size=2), "start_tokens = 64, all else as it is"),
        (
            section(1024, 64, 5000, micro_batch_size=2, increment=100),
            "batch.ramp.increment_tokens = 100 is not a multiple of 64",
        ),
        (section(1024, 64, 5000, micro_batch_size=2, increment=128), "960 is not a multiple of increment_tokens = 128"),
        (section(1024, 1024, 5000, micro_batch_size=2), "must be less than batch.global_batch_tokens = 1024"),
        (section(1024, 2048, 5000, micro_batch_size=2), "must be less than batch.global_batch_tokens = 1024"),
    ],
)
def test_a_ramp_that_does_not_divide_is_refused(given_section, said):
    with pytest.raises(BatchError) as refusal:
        plan_batches(given_section, 16, 2)
    assert said in str(refusal.value)


@given(start=st.integers(1, 2000), increment=st.integers(1, 2000))
def test_what_a_refusal_names_works(start, increment):
    given_section = section(2048, start, 5000, micro_batch_size=1, increment=increment)
    for _ in range(4):  # each refusal is of one number
        try:
            plan_batches(given_section, 16, 2)
            return
        except BatchError as error:
            if "must be less" in str(error):
                return
            key, value = re.search(r"(start_tokens|increment_tokens) = (\d+)(?: or \d+)?, all else", str(error)).groups()
            ramp = given_section.ramp.model_copy(update={key: int(value)})
            given_section = given_section.model_copy(update={"ramp": ramp})
    raise AssertionError(given_section)
