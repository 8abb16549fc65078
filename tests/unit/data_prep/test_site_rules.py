"""An opt-out in a robots.txt is seen, however it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protego import Protego

from data_prep.sources.site_rules import Robots

DENIED = ["robots.txt: GPTBot"]


@pytest.mark.parametrize(
    ("robots", "right"),
    [
        ("User-agent: GPTBot\nDisallow: /", DENIED),
        ("\ufeffUser-agent: GPTBot\nDisallow: /", DENIED),
        ("USER-AGENT : gptbot\r\nDISALLOW : /", DENIED),
        ("User-agent: GPTBot/1.0\nDisallow: /", DENIED),
        ("User-agent: GPTBot/1.0 (+https://openai.com/gptbot)\nDisallow: /", DENIED),
        ("User-agent: GPTBot # of OpenAI\nDisallow: /", DENIED),
        ("User-agent: GPTBot\nCrawl-delay: 5\nUser-agent: Other\nDisallow: /", DENIED),
        ("User-agent: GPTBot\nContent-Usage: train-ai=y\nUser-agent: Other\nDisallow: /", DENIED),
        ("User-agent: GPTBot\nSitemap: https://a.org/s.xml\n\nUser-agent: Other\nFancy: 1\nDisallow: /", DENIED),
        ("User-agent: Other\nDisallow: /\nUser-agent: GPTBot\nAllow: /", []),
        ("User-agent: *\nDisallow: /private/", []),
        ("User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /", ["robots.txt: ai-train=no"]),
        ("Content-Usage: train-ai=n\nUser-agent: *\nAllow: /", ["robots.txt: ai-train=no"]),
        ("User-agent: *\nContent-Usage: /other/ train-ai=n\nAllow: /", []),
        ("User-agent: *\nContent-Usage: /page train-ai=n\nAllow: /", ["robots.txt: ai-train=no"]),
        ("User-agent: *\nContent-Signal: search=yes, ai-train=yes\nAllow: /", []),
        ("User-agent: SomeBot\nContent-Signal: ai-train=no\nAllow: /", []),
    ],
)
def test_robots(robots, right):
    assert Robots(robots.encode()).denials("https://a.org/page/1", ["GPTBot"]) == right


def test_utf_16():
    assert Robots("\ufeffUser-agent: GPTBot\nDisallow: /".encode("utf-16-le")).denials("https://a.org/", ["GPTBot"]) == DENIED


def test_agents_of_two_words():
    assert Robots(b"User-agent: Kangaroo Bot\nDisallow: /").denials("https://a.org/", ["Kangaroo Bot"])


LINES = st.sampled_from(
    ["User-agent: a", "User-agent: b", "User-agent: *", "Allow: /x", "Disallow: /", "Disallow: /x*y$", "Disallow:"]
)


@given(st.lists(LINES, max_size=12), st.sampled_from(["/", "/x", "/xzy", "/q?x=1"]))
def test_plain_files_mean_what_protego_says(lines, path):
    text = "\n".join(lines)
    theirs = [f"robots.txt: {agent}" for agent in "ab" if not Protego.parse(text).can_fetch(f"https://a.org{path}", agent)]
    assert Robots(text.encode()).denials(f"https://a.org{path}", ["a", "b"]) == theirs
