"""Batch arithmetic: exact or refused, never rounded."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.batch import AUTO_MICRO_BATCH_TOKENS, BatchError, BatchSection, solve

sizes = st.integers(1, 64)
auto_or_size = st.one_of(st.just("auto"), sizes)


@given(tokens=st.integers(1, 1 << 22), micro=auto_or_size, accumulation=auto_or_size, length=st.integers(1, 4096), ranks=sizes)
def test_exact_or_refused(tokens, micro, accumulation, length, ranks):
    section = BatchSection(global_batch_tokens=tokens, micro_batch_size=micro, gradient_accumulation_steps=accumulation)
    try:
        plan = solve(section, length, ranks)
    except BatchError as error:
        for number in (tokens, length, ranks):
            assert str(number) in str(error)
        known = length * ranks * (1 if micro == "auto" else micro) * (1 if accumulation == "auto" else accumulation)
        assert tokens % known or ("auto" not in (micro, accumulation) and tokens != known)
        return
    product = length * plan.micro_batch_size * plan.gradient_accumulation_steps * ranks
    assert product == tokens == plan.global_batch_tokens
    assert micro in ("auto", plan.micro_batch_size)
    assert accumulation in ("auto", plan.gradient_accumulation_steps)


@given(length=st.integers(1, 300), micro=sizes, accumulation=sizes, ranks=sizes, stages=st.integers(1, 8))
def test_auto_finds_every_split_that_exists(length, micro, accumulation, ranks, stages):
    tokens = length * micro * accumulation * ranks
    plan = solve(BatchSection(global_batch_tokens=tokens), length, ranks, stages)
    assert plan.global_batch_tokens == tokens
    assert plan.micro_batch_size == 1 or plan.micro_batch_size * length <= AUTO_MICRO_BATCH_TOKENS
    if stages > 1 and micro * accumulation >= stages:
        assert plan.gradient_accumulation_steps >= stages
    assert solve(
        BatchSection(global_batch_tokens=tokens, micro_batch_size=micro), length, ranks
    ).gradient_accumulation_steps == (accumulation)


@given(tokens=st.integers(1, 100_000), micro=auto_or_size, accumulation=auto_or_size, length=st.integers(1, 512), ranks=sizes)
def test_every_choice_that_a_refusal_names_works(tokens, micro, accumulation, length, ranks):
    section = BatchSection(global_batch_tokens=tokens, micro_batch_size=micro, gradient_accumulation_steps=accumulation)
    try:
        solve(section, length, ranks)
        return
    except BatchError as error:
        lines = str(error).split("\n")[2:]
    assert lines
    for line in lines:
        if line.startswith("  global_batch_tokens"):
            for value in map(int, re.findall(r"\d+", line)):
                solve(section.model_copy(update={"global_batch_tokens": value}), length, ranks)
        elif line.startswith("  data-parallel"):
            for value in map(int, re.findall(r"\d+", line)):
                solve(section, length, value)
        elif "all else" in line:
            key, value = re.match(r"  (\w+) = (\d+), all else", line).groups()
            solve(section.model_copy(update={key: int(value)}), length, ranks)
        elif line.startswith("  micro_batch_size"):
            for m, a in re.findall(r"(\d+) with gradient_accumulation_steps (\d+)", line):
                change = {"micro_batch_size": int(m), "gradient_accumulation_steps": int(a)}
                solve(section.model_copy(update=change), length, ranks)


@pytest.mark.parametrize("name", ["micro_batch_size", "gradient_accumulation_steps"])
def test_zero_is_refused(name):
    with pytest.raises(BatchError, match=f"batch.{name} is 0"):
        solve(BatchSection(global_batch_tokens=64, **{name: 0}), 8, 1)
