"""What makes filters fast must not change what they find: each shortcut against the plain way."""

from __future__ import annotations

import re

import numpy as np
import phonenumbers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from data_prep.document import Document, Drop
from data_prep.filters import FILTERS, Filter, gopher, personal_data, spam, text, toxicity
from data_prep.filters.linear_text import LinearText, features

PLAIN_WORD = re.compile(r"\w+(?:['’\-.]\w+)*|[^\w\s]+")
PIECES_OF_TEXT = st.text(st.sampled_from("abé_9'’-. ,\n\u00a0\x1c٣磨\ud800😀"), max_size=60)


@settings(max_examples=300)
@given(PIECES_OF_TEXT)
def test_words_are_those_of_the_pattern(sample):
    plain = PLAIN_WORD.findall(sample)
    assert list(text.strings(sample)) == plain
    found = text.words(sample)
    assert found.real.tolist() == [token[0].isalnum() or token[0] == "_" for token in plain]
    assert len(set(found.keys.tolist())) == len(set(plain))


def test_equal_words_have_equal_keys_wherever_they_stand():
    found = text.words("mill " * 1000 + "磨 mill")
    assert len(set(found.keys.tolist())) == 2 and found.keys[0] == found.keys[-1]


@pytest.mark.parametrize("name", ["spam", "toxicity"])
@settings(max_examples=60, deadline=None)
@given(samples=st.lists(st.one_of(PIECES_OF_TEXT, st.text(st.sampled_from("ab cΣİ!"), max_size=300)), max_size=5))
def test_scores_are_those_of_the_feature_matrix(name, samples):
    samples = [sample.replace("\ud800", "?") for sample in samples]
    model = LinearText.load(name)
    plain = features(samples) @ model.weights.astype(np.float64) + model.bias if samples else np.empty(0)
    np.testing.assert_allclose(model.scores(samples), 1 / (1 + np.exp(-plain)), atol=1e-12)


def test_a_lone_surrogate_can_be_scored():
    assert LinearText.load("spam").scores(["win \ud800 now"]) == LinearText.load("spam").scores(["win ? now"])


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("0123456789   -./()"), min_size=9, max_size=18).filter(lambda s: s[0] in "0123456789("))
def test_no_phone_number_is_passed_over(candidate):
    for region in ("US", "GB", "DE", "FR", "RU", "AR"):
        try:
            valid = phonenumbers.is_valid_number(phonenumbers.parse(candidate, region))
        except phonenumbers.NumberParseException:
            valid = False
        assert personal_data._is_phone(candidate, region) == valid


def test_findings_around_text_without_digits():
    filler = " The miller rises before the sun. " * 20
    sample = (
        f"{filler}a@b.com{filler}SSN 054-28-6917{filler}86.121.97.248{filler}2a00:1450:4001:81b::200e{filler}+44 7700 900123"
    )
    found = personal_data.find(sample, personal_data.PersonalData(type="personal_data"))
    kinds = ["email", "national_id", "ip", "ip", "phone"]
    assert [item.kind for item in found] == kinds and found[-1].end == len(sample)


def plain_toxicity(sample):
    """(segments, scores above 0.5) with every segment looked at."""
    pieces = list(toxicity.segments(sample))
    judged = pieces if len(pieces) < 2 else [piece for piece in pieces if toxicity.listed_words(piece)]
    scores = LinearText.load("toxicity").scores([toxicity.normalise(piece) for piece in judged])
    return int((scores >= 0.5).sum()), len(pieces)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["The mill turns. ", "you stupid bitch\n", "a blow\njob ", "what an ass. ", "x" * 90 + " "]),
        max_size=60,
    )
)
def test_toxicity_of_listed_segments(parts):
    sample = "".join(parts)
    count, scores = toxicity.judge_segments(sample, True)
    hits, total = plain_toxicity(sample)
    assert int((scores >= 0.5).sum()) == hits and (hits == 0 or count == total)


def test_a_text_without_listed_words_has_no_candidates():
    assert toxicity._present("The miller rises before the sun. " * 20) == []
    assert toxicity._present("Look 🖕 here") == ["🖕"]


@pytest.mark.parametrize("size", [10, 100, 1000])
def test_pieces_are_the_text(monkeypatch, size):
    sample = "".join(f"line {n} of the text\n" * (n % 3) + "word " * n for n in range(60))
    cut = list(text.pieces(sample, size))
    assert "".join(cut) == sample and max(map(len, cut)) <= size
    assert list(text.pieces("x" * 25, 10)) == ["x" * 10, "x" * 10, "x" * 5] and list(text.pieces("")) == [""]


@pytest.mark.parametrize(
    "filter_type", ["gopher_quality", "c4", "fineweb", "personal_data", "encoding_repair", "toxicity", "spam"]
)
def test_a_text_in_pieces_is_judged_as_one(monkeypatch, filter_type):
    lines = [
        f"The miller of village {n} grinds the corn, and mails miller{n}@mill{n}.com of the cafÃ© about it.\n"
        for n in range(300)
    ]
    document = Document("d", "".join(lines), "s")
    step = TypeAdapter(Filter).validate_python({"type": filter_type})
    whole = FILTERS[filter_type](document, step)
    monkeypatch.setattr(text.pieces, "__defaults__", (2000,))
    parts = FILTERS[filter_type](document, step)
    assert whole == parts or (isinstance(whole, Drop) and whole.reason == parts.reason)


def test_stuffing_names_the_phrase():
    verdict = spam.apply(
        Document("d", "one two three four five six seven " * 10 + "best cheap hotels " * 40, "s"), spam.Spam(type="spam")
    )
    assert verdict.reason == "keyword stuffing" and '"best cheap hotels"' in verdict.detail


def test_longer_ngrams_are_looked_at_where_shorter_ones_repeat():
    sample = " ".join(f"w{n}" for n in range(30)) + " / "
    covered = gopher.repeated_characters(sample * 2)
    assert covered[10] == covered[5] > 0


@pytest.mark.parametrize("sample", ["", " ", "\n", "a", "磨", "\ufeff", "\ud800", "😀\n" * 3])
@pytest.mark.parametrize("filter_type", sorted(set(FILTERS) - {"licence"}))
def test_the_shortest_texts_are_judged(filter_type, sample):
    step = TypeAdapter(Filter).validate_python({"type": filter_type})
    assert isinstance(FILTERS[filter_type](Document("d", sample, "s"), step), Document | Drop)
