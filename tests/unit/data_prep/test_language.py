"""Language identification: codes as people write them, technical and mixed text, and what documents declare."""

from __future__ import annotations

import pytest

from data_prep.document import Document, Drop
from data_prep.filters import language
from data_prep.filters.language_codes import KNOWN, model_code
from strict_json import ConfigError, validate

TECHNICAL = [
    """Return the indices that would sort the array.

    Parameters
    ----------
    a : array_like
        Array to sort.
    axis : int or None, optional
        Axis along which to sort. If None, the array is flattened.

    >>> x = np.array([3, 1, 2])
    >>> np.argsort(x)
    array([1, 2, 0])
    """,
    """NAME
       mill - grind files

SYNOPSIS
       mill [-fqv] [--stones=N] [-o OUTFILE] FILE...

OPTIONS
       -f, --force      overwrite OUTFILE
       -q, --quiet      print no messages
       --stones=N       use N stones (default: 2)""",
    """mill (1.4-2) unstable; urgency=low

  * New upstream release. Closes: #912345
  * debian/control: bump Standards-Version to 4.6.1, no changes.
  * debian/rules: drop dh_strip override""",
]
GERMAN = "Der Müller steht vor Sonnenaufgang auf und öffnet das Wehr, damit das Wasser das große Rad drehen kann. " * 4
ENGLISH = "The miller rises before the sun and opens the sluice, so that the water may turn the great wheel of his mill. " * 4


def judge(text, metadata=None, **values):
    return language.apply(Document("d", text, "s", metadata or {}), language.Language(type="language", **values))


@pytest.mark.parametrize("text", TECHNICAL)
def test_plain_english_of_programmers_is_english(text):
    assert language.identify(text).language == "en"
    assert not isinstance(judge(text, keep=["en"]), Drop)
    assert judge(text, keep=["de"]).reason == "other language"


@pytest.mark.parametrize("tag", ["en", "EN", "eng", "en-US", "en_GB", "en-Latn-US"])
def test_tags_of_english(tag):
    assert judge(ENGLISH, keep=[tag]).metadata["language"] == "en"
    assert judge(GERMAN, keep=[tag]).reason == "other language"


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("deu", "de"), ("ger", "de"), ("pt-BR", "pt"), ("zh-Hant", "zh"), ("cmn", "zh"), ("zho_Hans", "zh"), ("nb", "no"),
        ("nob", "no"), ("arb", "ar"), ("pes", "fa"), ("fil", "tl"), ("gsw", "als"), ("zsm", "ms"), ("iw", "he"), ("swh", "sw"),
    ],
)  # fmt: skip
def test_tags_of_other_languages(tag, code):
    assert model_code(tag) == code


@pytest.mark.parametrize(("tag", "word"), [("xx", "no code"), ("english", "no code"), ("tlh", "does not know"), ("als", "gsw")])
def test_unknown_tags_are_refused_with_what_is_known(tag, word):
    with pytest.raises(ConfigError, match=word) as caught:
        validate(language.Language, {"type": "language", "keep": ["en", tag]}, "recipe.json")
    assert "keep" in str(caught.value)
    with pytest.raises(ConfigError):
        validate(language.Language, {"type": "language", "keep": []}, "recipe.json")


def test_the_known_codes_are_the_models():
    labels = language._model().detect("a word", k=200, threshold=-1.0)
    assert {label["lang"] for label in labels} == set(KNOWN) and list(KNOWN) == sorted(KNOWN)


def test_several_languages_are_recorded_with_their_shares():
    kept = judge(f"{ENGLISH}\n{GERMAN}", keep=["en", "de"])
    assert set(kept.metadata["language_shares"]) == {"en", "de"}
    assert sum(kept.metadata["language_shares"].values()) == pytest.approx(1, abs=0.02)
    dropped = judge(f"{ENGLISH}\n{GERMAN}", keep=["en"])
    assert dropped.reason == "several languages" and "de" in dropped.detail
    assert not isinstance(judge(f"{ENGLISH}\n{GERMAN}", keep=["en"], min_share=0.3), Drop)
    assert "language_shares" not in judge(ENGLISH, keep=["en"]).metadata


def test_a_declared_language_is_not_replaced_and_counts_as_an_opinion(monkeypatch):
    kept = judge(GERMAN, {"language": "en-US"})
    assert kept.metadata["language"] == "en-US" and kept.metadata["language_found"] == "de"
    kept = judge(ENGLISH, {"language": "en-US"}, keep=["en"])
    assert kept.metadata["language"] == "en-US" and "language_found" not in kept.metadata
    monkeypatch.setattr(language, "_second_opinion", lambda found: False)
    doubtful = {"keep": ["en"], "min_score": 1.0}
    assert judge("Sorted by name", **doubtful).reason == "language unclear"
    assert judge("Sorted by name", {"language": "eng"}, **doubtful).text == "Sorted by name"
    assert judge("Sorted by name", {"language": "de"}, **doubtful).reason == "language unclear"


def test_no_words_are_unclear():
    numbers = "12 34 56 -- 78"
    assert judge(numbers, keep=["en"]) == Drop("language unclear", "no words to judge")
    assert judge(numbers, keep=["en"], unclear="keep").metadata["language"] == "und"
    assert judge(numbers).metadata["scores"]["language"] == 0.0


def test_the_first_model_alone_where_asked():
    assert judge(TECHNICAL[0], keep=["en"], second_opinion=False, min_score=0.99).reason == "language unclear"
