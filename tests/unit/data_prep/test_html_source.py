"""Web pages saved as files: their text, what they say of themselves, figures and formulas."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.document import Document, SetAside
from data_prep.extract import _read
from data_prep.recipe import Recipe
from data_prep.sources import READERS, mathml, page, page_facts

PAGE = """<!doctype html><html lang="en-GB"><head><title>Mills
 of the valley</title><meta name=author content="A. Miller">
<meta property="article:published_time" content="2021-03-04T05:06:07Z">
<link rel=canonical href="https://a.org/mills"><link rel=license href="https://creativecommons.org/licenses/by/4.0/">
<meta name="robots" content="index, noai"></head><body><nav><a href=/>Home</a></nav><article><h1>Mills</h1>
<p>A mill grinds grain between two stones, turned by water or by wind, and each weighs 10<sup>3</sup> kg.</p>
</article></body></html>"""


def read(base: Path, **values) -> tuple[list[Document], list[SetAside]]:
    recipe = {"output": "x", "tokenizer": {"vocab_size": 300}, "sources": [{"name": "s", "type": "html", **values}]}
    chosen = Recipe.model_validate_json(json.dumps(recipe)).sources[0]
    items = list(_read([(chosen, piece) for piece in READERS["html"].pieces(chosen, base)]))
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, SetAside)]


def text_of(markup: str, **values) -> str:
    return page.text_of(page.parse_text(f"<body>{markup}</body>"), False, **values)


def test_a_folder_of_pages(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.html").write_text(PAGE)
    (tmp_path / "b.xhtml.gz").write_bytes(
        gzip.compress('<?xml version="1.0" encoding="iso-8859-2"?><p>źdźbło</p>'.encode("iso-8859-2"))
    )
    (tmp_path / "c.htm").write_bytes("<meta charset=utf-16le><p>mill".encode("utf-16"))
    (tmp_path / "d.html").write_text("<div>" * 200_000)
    (tmp_path / "e.png").write_bytes(b"\x89PNG")
    documents, (aside,) = read(tmp_path, paths=["."])
    assert {d.id: d.text for d in documents} == {
        "s/b.xhtml.gz": "źdźbło",
        "s/c.htm": "mill",
        "s/x/a.html": "Mills\n\nA mill grinds grain between two stones, turned by water or by wind, and each weighs 10^3 kg.",
    }
    assert aside.where.endswith("d.html") and "nested" in aside.reason
    metadata = next(d.metadata for d in documents if d.id == "s/x/a.html")
    assert metadata == {
        "title": "Mills of the valley",
        "author": "A. Miller",
        "date": "2021-03-04T05:06:07Z",
        "url": "https://a.org/mills",
        "licence": "CC-BY-4.0",
        "licence_evidence": ["marked: CC-BY-4.0"],
        "language": "en",
        "opt_out": ["meta: noai"],
        "encoding": "utf-8",
    }


def test_a_page_saved_as_mhtml(tmp_path):
    (tmp_path / "a.mhtml").write_bytes(
        b"From: <Saved by Blink>\r\nSnapshot-Content-Location: https://a.org/m\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/related; type="text/html"; boundary="B"\r\n\r\n--B\r\nContent-Type: text/html\r\n'
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n<p>M=C3=BChle =3D mill</p>\r\n--B--\r\n"
    )
    (document,), aside = read(tmp_path, paths=["a.mhtml"])
    assert not aside and (document.text, document.metadata["url"]) == ("Mühle = mill", "https://a.org/m")


def test_an_encoding_that_is_guessed_is_said(tmp_path):
    (tmp_path / "a.html").write_bytes("<p>Мельница мелет зерно между двумя камнями, и вода вертит колесо".encode("koi8-r"))
    (tmp_path / "b.html").write_bytes("<meta charset=koi8-r><p>Мельница".encode("koi8-r"))
    guessed, declared = read(tmp_path, paths=["."])[0]
    assert guessed.metadata["encoding_assumed"] is True and "encoding_assumed" not in declared.metadata
    assert declared.text == "Мельница"


@pytest.mark.parametrize(
    ("markup", "right", "unicode"),
    [
        ("10<sup>6</sup>", "10^6", "10⁶"),
        ("10<sup>&minus;6</sup> m", "10^-6 m", "10⁻⁶ m"),
        ("5 km<sup>2</sup>", "5 km^2", "5 km²"),
        ("<i>x</i><sup>2</sup>", "x^2", "x²"),
        ("e<sup>x</sup> x<sup>n+1</sup>", "e^x x^(n+1)", "e^x xⁿ⁺¹"),
        ("CO<sub>2</sub>, H<sub>2</sub>O", "CO2, H2O", "CO₂, H₂O"),
        ("SO<sub>4</sub><sup>2&minus;</sup>, Ca<sup>2+</sup>", "SO4^2-, Ca^2+", "SO₄²⁻, Ca²⁺"),
        ("log<sub>2</sub>8, 101<sub>2</sub>", "log_2 8, 101_2", "log₂8, 101₂"),
        ("3<sup>1</sup>/<sub>2</sub> in", "3 1/2 in", "3 1/2 in"),
        ("the 1<sup>st</sup> of M<sup>me</sup>", "the 1st of Mme", "the 1st of Mme"),
        ("stones<sup>[1]</sup> and grain<sup>2</sup>", "stones[1] and grain[2]", "stones[1] and grain[2]"),
        ("stones<sup><a href=#n1>1</a></sup> end.<sup>3</sup>", "stones[1] end.[3]", "stones[1] end.[3]"),
    ],
)
def test_raised_and_lowered_texts(markup, right, unicode):
    assert text_of(f"<p>{markup}</p>") == right
    assert text_of(f"<p>{markup}</p>", powers="unicode") == unicode


@pytest.mark.parametrize(
    ("markup", "right"),
    [
        ("<math><msup><mi>x</mi><mn>2</mn></msup><mo>+</mo><mfrac><mn>1</mn><mn>2</mn></mfrac></math>", "x^2 + 1/2"),
        ("<math><mi>a</mi><mo>&ne;</mo><mi>b</mi></math>", "a ≠ b"),
        ("<math><mfrac><mrow><mi>a</mi><mo>-</mo><mi>b</mi></mrow><msqrt><mn>2</mn></msqrt></mfrac></math>", "(a - b)/sqrt(2)"),
        ("<math><mn>2</mn><mn>3</mn></math>", "2 3"),
        ("<math><semantics><msup><mi>x</mi><mn>2</mn></msup><annotation encoding='application/x-tex'>x^2</annotation>"
         "</semantics></math>", "$x^2$"),
        ("<span class=katex><span class=katex-mathml><math><semantics><mi>y</mi><annotation encoding='application/x-tex'>y_1"
         "</annotation></semantics></math></span><span class=katex-html aria-hidden=true>y1</span></span>", "$y_1$"),
        ("a <span class=MathJax_Preview>x2</span><script type='math/tex'>x^2 < 3</script> b", "a $x^2 < 3$ b"),
        ("<mjx-container><mjx-math>x2</mjx-math><mjx-assistive-mml><math><msup><mi>x</mi><mn>2</mn></msup></math>"
         "</mjx-assistive-mml></mjx-container>", "x^2"),
        ("as <img class=latex alt='x^2'> shows", "as $x^2$ shows"),
        ("a <b>≠</b> b, &not;p, <b>¬</b>q, <b>±</b>3, <b>−</b>5", "a ≠ b, ¬p, ¬q, ±3, −5"),
    ],
)  # fmt: skip
def test_formulas_keep_their_meaning(markup, right):
    assert text_of(f"<p>{markup}</p>") == right


@settings(max_examples=100, deadline=2000)
@given(st.text(alphabet='<>/mnsupfracow&;xt1 -="', max_size=80))
def test_any_markup_is_written_out(markup):
    assert isinstance(mathml.to_text(f"<math>{markup}</math>"), str)
    text_of(f"<math>{markup}</math><sup>{markup}</sup>x<sub>{markup}")


@pytest.mark.parametrize(
    ("headers", "meta", "right"),
    [
        ([("X-Robots-Tag", "GPTBot: noai, noimageai")], "", ["X-Robots-Tag: noai", "X-Robots-Tag: noimageai"]),
        ([("x_robots_tag", "NOAI")], "", ["X-Robots-Tag: noai"]),
        ([("X-Robots-Tag", "noindex")], "", []),
        ([("Content-Usage", "train-ai=n")], "", ["content-usage"]),
        ([("Content-Signal", "search=yes, ai-train=no")], "", ["content-signal"]),
        ([("Content-Signal", "search=yes, ai-train=yes")], "", []),
        ([("TDM-Reservation", " 1 ")], "", ["tdm-reservation"]),
        ([], "<meta name=GPTBot content='noai'>", ["meta: noai"]),
        ([], "<META NAME='Robots' CONTENT='NoAI'>", ["meta: noai"]),
        ([], "<meta http-equiv='X-Robots-Tag' content='noimageai'>", ["meta: noimageai"]),
        ([], "<meta name=tdm-reservation content=1>", ["tdm-reservation"]),
        ([], "<meta name=description content='Why we say no-AI'>", []),
    ],
)
def test_signals_against_training(headers, meta, right):
    assert page_facts.opt_outs(page.parse_text(f"<head>{meta}</head><body>x"), headers) == right
