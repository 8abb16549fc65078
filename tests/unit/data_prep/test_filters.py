"""Each rule of the filters, on texts made to meet it and to miss it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.clean import judge
from data_prep.document import Document, Drop
from data_prep.filters import FILTERS, c4, content, encoding, fineweb, gopher, language, personal_data, policy, spam, toxicity
from data_prep.filters.text import RepeatedNGrams, repeated, words

PROSE = """The miller rises before the sun and opens the sluice, so that the water may turn the great wheel.
Grain that farmers have brought during the week is poured into the hopper above the stones. The upper stone turns, the
lower one rests, and between them the corn is broken, first into grist and then into flour that is soft to the hand.
A good miller hears from the sound of the stones whether they run too fast, and he knows by touch when they must be dressed.
In dry summers the pond is low and people have to wait; in winter the ice must be broken from the paddles with an axe."""


def document(text, **metadata):
    return Document("s/1", text, "s", metadata)


def reason(filter_type, text, **values):
    """The reason for which a filter drops a text, None if it keeps it."""
    module = {"gopher_quality": gopher.GopherQuality, "gopher_repetition": gopher.GopherRepetition, "c4": c4.C4}
    kind = (module | {"fineweb": fineweb.FineWeb, "spam": spam.Spam, "toxicity": toxicity.Toxicity})[filter_type]
    verdict = FILTERS[filter_type](document(text), kind(type=filter_type, **values))
    return verdict.reason if isinstance(verdict, Drop) else None


@pytest.mark.parametrize("filter_type", ["gopher_quality", "gopher_repetition", "c4", "fineweb", "spam", "toxicity"])
def test_good_prose_stays(filter_type):
    values = {"min_sentences": 3} if filter_type == "c4" else {}  # two lines end within a sentence
    assert reason(filter_type, PROSE, **values) is None


@pytest.mark.parametrize(
    ("filter_type", "text", "expected"),
    [
        ("gopher_quality", "Too short.", "too few words"),
        ("gopher_quality", "a b c d " * 20, "mean word length"),
        ("gopher_quality", PROSE + " #" * 40, "too many hash signs"),
        ("gopher_quality", PROSE + " ..." * 40, "too many ellipses"),
        ("gopher_quality", "\n".join(f"- {line}" for line in PROSE.split("\n")), "mostly bullet points"),
        ("gopher_quality", "\n".join(line + " ..." for line in PROSE.split("\n")), "many lines end in an ellipsis"),
        ("gopher_quality", PROSE + " 12345" * 60, "too few alphabetic words"),
        ("gopher_quality", "mill stone wheel water grain flour hopper sluice miller pond " * 6, "too few stop words"),
        ("gopher_repetition", PROSE + "\nsame line here" * 20, "repeated lines"),
        ("gopher_repetition", "\n\n".join([PROSE] * 3), "repeated paragraphs"),
        ("gopher_repetition", PROSE + " buy cheap flour" * 40, "one 2-gram again and again"),
        ("gopher_repetition", f"{PROSE} And now {PROSE}".replace("\n", " "), "repeated 5-grams"),
        ("c4", PROSE + "\nLorem ipsum dolor sit amet.", "lorem ipsum"),
        ("c4", PROSE + "\nfunction () { return }", "curly bracket"),
        ("c4", "One sentence here. And two.", "too few sentences"),
        ("fineweb", "\n".join(PROSE.replace(".", "").replace(";", "").split(",")), "few lines end in punctuation"),
        ("fineweb", "\n".join(["Short line."] * 12 + [PROSE]), "mostly short lines"),
        ("fineweb", "\n".join([PROSE, *["This line comes again, and it is not a short one."] * 4]), "repeated lines"),
        ("spam", "WINNER!! You have won a £1000 cash prize! Call 09061701461 now to claim. Txt STOP to end", "spam"),
        ("spam", PROSE + " best cheap hotels" * 30, "keyword stuffing"),
        ("toxicity", "you stupid bitch, fuck off", "toxic"),
    ],
)
def test_each_rule(filter_type, text, expected):
    assert reason(filter_type, text) == expected


def test_c4_removes_lines():
    text = "Home | Shop | About\n" + PROSE + "\nWe use cookies to serve you better.\nIt was built in 1720.[12]\nClick here"
    kept = c4.apply(document(text), c4.C4(type="c4", min_sentences=1))
    assert kept.text.endswith("with an axe.\nIt was built in 1720.") and kept.text.startswith("The miller rises")


def brute_force(tokens, n):
    """Characters of words in an n-gram seen before."""
    seen, marked = set(), set()
    place = 0
    while place + n <= len(tokens):
        gram = tuple(tokens[place : place + n])
        if gram in seen:
            marked |= set(range(place, place + n))
        seen.add(gram)
        place += 1
    return sum(len(tokens[i]) for i in marked)


@settings(max_examples=200)
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=30), st.integers(2, 5))
def test_ngrams_against_brute_force(tokens, n):
    joined = words(" ".join(tokens))
    ngrams = RepeatedNGrams(joined.keys, joined.ends - joined.starts)
    assert ngrams.duplicate_characters(n) == brute_force(tokens, n)
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    most = max(map(grams.count, grams), default=0)
    longest = max((sum(map(len, g)) for g in grams if grams.count(g) == most), default=0)
    assert ngrams.top_characters(n) == (most * longest if most > 1 else 0)
    assert repeated(tokens) == (
        len(tokens) - len(set(tokens)),
        sum(len(t) for i, t in enumerate(tokens) if t in tokens[:i]),
    )


def test_encoding_repair():
    chosen = encoding.EncodingRepair(type="encoding_repair")
    broken = "The cafÃ© isnâ€™t open\r\nza\u0308hlt\x00 \ufeffquickly \U0001f469\u200d\U0001f469"
    assert encoding.apply(document(broken), chosen).text == "The café isn’t open\nzählt quickly \U0001f469\u200d\U0001f469"
    assert encoding.apply(document("a\ufffd" * 10), chosen).reason == "undecodable characters"
    clean = document(PROSE)
    assert encoding.apply(clean, chosen) is clean


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROSE, "en"),
        ("Der Müller steht vor der Sonne auf und öffnet das Wehr, damit das Wasser das große Rad drehen kann.", "de"),
        ("El molinero se levanta antes que el sol y abre la compuerta para que el agua mueva la gran rueda.", "es"),
        ("Мельник встаёт до рассвета и открывает шлюз, чтобы вода могла вращать большое колесо.", "ru"),
        ("製粉業者は夜明け前に起きて水門を開け、水が大きな車輪を回すようにする。", "ja"),
        ("12345 --- !!!", "und"),
    ],
)
def test_language(text, expected):
    assert language.detect(text)[0] == expected


def test_language_filter():
    chosen = language.Language(type="language", keep=["en"])
    kept = language.apply(document(PROSE, scores={"x": 1.0}), chosen)
    assert kept.metadata["language"] == "en" and set(kept.metadata["scores"]) == {"x", "language"}
    assert language.apply(document("Das ist ein deutscher Satz über Mühlen und Müller."), chosen).reason == "other language"


EVERYTHING = (
    "Mail anna.b+x@mail.example.co.uk or call (541) 714-1388, +44 7700 900123; card 4111 1111 1111 1111, IBAN GB29 NWBK 6016 "
    "1331 9268 19, from 86.121.97.248 and 2a00:1450:4001:81b::200e. SSN 054-28-6917. DNI 54362315K. CPF 390.533.447-05."
)


def test_personal_data():
    kept = personal_data.apply(document(EVERYTHING), personal_data.PersonalData(type="personal_data"))
    assert kept.text == (
        "Mail <EMAIL> or call <PHONE>, <PHONE>; card <CARD>, IBAN <IBAN>, from <IP> and <IP>. SSN <NATIONAL_ID>. DNI "
        "<NATIONAL_ID>. CPF <NATIONAL_ID>."
    )
    assert kept.metadata["personal_data"] == {"card": 1, "email": 1, "iban": 1, "ip": 2, "national_id": 3, "phone": 2}
    strict = personal_data.PersonalData(type="personal_data", drop_above=3)
    assert personal_data.apply(document(EVERYTHING), strict).reason == "personal data"


@pytest.mark.parametrize(
    "text",
    [
        "version 1.2.3.4 of 2018-02-24 12:30:45, std::list<a::b>, 192.168.0.1",
        "user@localhost, a @ b, @name, name@, 1 + 1 = 2",
        "card 4111 1111 1111 1112, serial 1234567890123456, 0000 0000 0000 0000",
        "ISBN 978-3-16-148410-0, ISBN 0-451-51679-6 (paper), JD 2443144.5003725, (1857-1917)",
        "20.642796,-103.302955, in 1914-1918 and 1939-1945, 10,000,000 people, pi is 3.14159265358979",
        "GB29 NWBK 6016 1331 9268 18",
    ],
)
def test_what_is_no_personal_data(text):
    assert personal_data.find(text, personal_data.PersonalData(type="personal_data")) == []


@settings(max_examples=150, deadline=2000)
@given(st.text(alphabet="0123456789 .-+()@abGB:x/", max_size=120))
def test_masking_leaves_the_rest_alone_and_is_final(text):
    chosen = personal_data.PersonalData(type="personal_data")
    found = personal_data.find(text, chosen)
    assert all(a.end <= b.start for a, b in pairwise(found))
    masked = personal_data.mask(text, found)
    rest = [text[a:b] for a, b in zip([0, *(f.end for f in found)], [*(f.start for f in found), len(text)], strict=True)]
    pieces = masked
    for item, before in zip(found, rest, strict=False):
        assert pieces.startswith(before + f"<{item.kind.upper()}>")
        pieces = pieces[len(before) + len(item.kind) + 2 :]
    assert pieces == rest[-1]


@pytest.mark.parametrize("text", ["1" * 100_000, "1 " * 50_000, "a@" * 50_000, "1.1." * 30_000, "+" * 100_000, "ab:" * 30_000])
def test_hostile_texts_take_no_longer(text):
    personal_data.find(text, personal_data.PersonalData(type="personal_data"))
    spam.apply(document(text), spam.Spam(type="spam"))
    toxicity.apply(document(text), toxicity.Toxicity(type="toxicity"))


def test_policies():
    keep = policy.OptOut(type="opt_out", ignore=["robots.txt: *"])
    assert policy.apply_opt_out(document("x", opt_out=["robots.txt: GPTBot"]), keep).text == "x"
    assert policy.apply_opt_out(document("x", opt_out=["meta: noai"]), keep) == Drop("opted out", "meta: noai")
    licences = policy.LicencePolicy(type="licence", allow=["CC-BY-*", "CC0-1.0"])
    assert policy.apply_licence(document("x", licence="CC-BY-SA-4.0"), licences).text == "x"
    assert policy.apply_licence(document("x", licence="MIT"), licences) == Drop("licence not allowed", "MIT")
    assert policy.apply_licence(document("x"), licences) == Drop("licence unknown")


def test_filters_run_in_order_and_only_where_asked():
    steps = [
        language.Language(type="language", only_sources=["web"], keep=["de"]),
        c4.C4(type="c4", min_sentences=1),
        gopher.GopherQuality(type="gopher_quality"),
    ]
    step, judged, drop = judge(document(PROSE + "\nmenu"), steps)
    assert (step, drop) == ("", None) and not judged.text.endswith("menu")
    step, _, drop = judge(Document("w/1", PROSE, "web"), steps)
    assert (step, drop.reason) == ("language", "other language")


CODE = {
    "python": """import os\nfrom pathlib import Path\n\n\nclass Mill:\n    \"\"\"A mill.\"\"\"\n
    def __init__(self, stones):
        self.stones = stones\n\n    def grind(self, grain, *, fine=False):\n        for stone in self.stones:
            grain = stone.turn(grain)\n        return [g for g in grain if g.size < 3]\n""",
    "c": """#include <stdio.h>\n\nint main(int argc, char **argv) {\n    int i;\n    for (i = 0; i < argc; i++) {
        printf("%s\\n", argv[i]);\n    }\n    return 0;\n}\n""",
    "html": "<!DOCTYPE html>\n<html>\n<body>\n<p>Hello</p>\n<div class='a'>\n</div>\n</body>\n</html>",
    "css": "body {\n  color: red;\n  margin: 0 auto;\n}\n.a > .b:hover {\n  display: none;\n}\n",
    "json": '{\n  "name": "mill",\n  "stones": [\n    1,\n    2\n  ],\n  "open": true\n}\n',
    "shell": '#!/bin/sh\nset -e\nfor f in *.txt; do\n  echo "$f"\n  cp "$f" /tmp/\ndone\nif [ -z "$X" ]; then\n  exit 1\nfi\n',
    "sql": "SELECT name, age FROM millers\nWHERE age > 30;\nINSERT INTO mills VALUES (1, 'a');\n",
    "rust": 'use std::fs;\n\nfn main() {\n    let x = fs::read("a").unwrap();\n    println!("{}", x.len());\n}\n',
}
NOT_CODE = [
    PROSE,
    "Ingredients:\n- 2 cups of flour\n- 1 egg\n- salt (a pinch)\n\nMix them; let the dough rest. Bake it for an hour.",
    "O mill, thy wheel;\nthy water runs,\nand all the corn,\nthat farmers bring,\nis ground to flour;\nso sings the stone.",
    "Der Müller steht vor Sonnenaufgang auf (so war es immer). Er öffnet das Wehr; das Wasser treibt das Rad.",
    "Q: What is f(x)?\nA: It is a function, written f(x) = x + 1; its value at 2 is 3.",
    "磨坊主在日出之前起床,打开水闸,让水推动巨大的轮子。农民带来的谷物被倒入石头上方的料斗。",
]


@pytest.mark.parametrize("name", CODE)
def test_code_is_told_from_text(name):
    verdict = FILTERS["content"](document(CODE[name]), content.Content(type="content"))
    assert isinstance(verdict, Drop) and verdict.reason == "code", content.code_share(CODE[name])
    kept = FILTERS["content"](document(CODE[name]), content.Content(type="content", code="keep"))
    assert kept.metadata["content"] == "code" and kept.text == CODE[name]


@pytest.mark.parametrize("text", NOT_CODE)
def test_text_is_not_taken_for_code(text):
    assert FILTERS["content"](document(text), content.Content(type="content")) == document(text)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"{n} {n * 7 % 100}.5 {n * n}" for n in range(50)),
        "data: " + "iVBORw0KGgoAAAANSUhEUgAAAAUAAAAFCAYAAACNbyblAAAAHElEQVQI12P4" * 20,
        "caf\ufffd \x00\x01\x02 \x03\x04 PK\x07 abc def",
        "4f 6e 20 74 68 65 20 72 6f 61 64 0a 00 1f 3c 22 9a bc\n" * 9,
    ],
)
def test_non_text_is_told_from_text(text):
    verdict = FILTERS["content"](document(text), content.Content(type="content"))
    assert isinstance(verdict, Drop) and verdict.reason == "non-text"
    assert FILTERS["content"](document(text), content.Content(type="content", non_text="keep")).metadata == {
        "content": "non-text"
    }


@settings(max_examples=100, deadline=2000)
@given(piece=st.text(st.sampled_from("ab1 =(){};:,.*-_\"'[]<>\t"), max_size=30), times=st.integers(1, 2000))
def test_content_is_judged_in_linear_time(piece, times):
    FILTERS["content"](document(piece * times), content.Content(type="content"))


@pytest.mark.parametrize(
    ("licence", "kept"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR (MIT AND CC-BY-4.0)", True),
        ("(MIT OR", False),
        ("our own", False),
    ],
)
def test_licence_expressions(licence, kept):
    rule = policy.LicencePolicy(type="licence", allow=["MIT", "CC-BY-*"])
    document = Document("d", "text", "s", {"licence": licence})
    assert (policy.apply_licence(document, rule) is document) == kept


def test_punctuation_counts_as_words_where_asked():
    text = "\n".join(f"{name} (the miller), and: {name}; that is it!" for name in ["Ann", "Ben", "Cid", "Dan", "Eve"] * 3)
    assert reason("gopher_quality", text) is None
    assert reason("gopher_quality", text, punctuation_is_words=True) == "too few alphabetic words"
