"""Questions and answers of pages in every form that their makers use."""

from __future__ import annotations

import pytest

from data_prep.sources import faq, page

PAIRS = [("Why mills?", "For flour."), ("Who?", "Millers.")]


@pytest.mark.parametrize(
    "markup",
    [
        "<div><div><h3>Why mills?</h3></div><div><p>For flour.</p></div></div>"
        "<div><div><h3>Who?</h3></div><div><p>Millers.</p></div></div>",
        "<div><h3><button>Why mills?</button></h3></div><p>For flour.</p>"
        "<div><h3><button>Who?</button></h3></div><p>Millers.</p>",
        "<h1>FAQ</h1><p><b>Why mills?</b></p><p>For flour.</p><p><strong>Who?</strong></p><p>Millers.</p>",
        "<p><b>Q:</b> Why mills?</p><p><b>A:</b> For flour.</p><p><b>Q:</b> Who?</p><p><b>A:</b> Millers.</p>",
        "<p>Q1. Why mills?<br>A1. For flour.</p><p>Q2. Who?<br>A2. Millers.</p>",
        "<div itemscope itemtype='https://schema.org/FAQPage'>"
        "<div itemprop=mainEntity itemscope itemtype='https://schema.org/Question'><h3 itemprop=name>Why mills?</h3>"
        "<div itemprop=acceptedAnswer itemscope itemtype='https://schema.org/Answer'><div itemprop=text>"
        "<p>For flour.</p></div></div></div>"
        "<div itemprop=mainEntity itemscope itemtype='http://schema.org/Question'><span itemprop=name>Who?</span>"
        "<div itemprop=acceptedAnswer itemscope><p itemprop=text>Millers.</p></div></div></div>",
        '<script type="application/ld+json">{"@graph": [{"@type": ["FAQPage"], "mainEntity": [{"@type": ["Question"], "name": '
        '"Why mills?", "acceptedAnswer": {"text": "For flour."}}, {"@type": "Question", "name": "Who?", "acceptedAnswer": '
        '[{"text": "Millers."}]}]}]}</script><p>x</p>',
    ],
)
def test_forms(markup):
    assert faq.pairs(page.parse_text(f"<html><body>{markup}</body></html>")) == PAIRS


@pytest.mark.parametrize("question", ["水車とは何ですか？", "ما هي الطاحونة؟", "Τι είναι ο μύλος;", "Why mills? »"])
def test_question_marks_of_other_writings(question):
    assert faq.pairs(page.parse_text(f"<body><h2>{question}</h2><p>For flour.</p><h2>About</h2>x</body>")) == [
        (question, "For flour.")
    ]
