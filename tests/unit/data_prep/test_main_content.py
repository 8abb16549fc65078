"""The article of a page stays whole, and what stands around it goes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import zstandard

from data_prep.sources import main_content, page

STORY = (
    "<h1>Mills of the valley</h1><p>A mill grinds grain between two stones, turned by water or by wind.</p>"
    "<p>The miller takes a share of the flour as his pay, and sells it on the market of the next town.</p>"
)
TEXT = (
    "Mills of the valley\n\nA mill grinds grain between two stones, turned by water or by wind.\n\n"
    "The miller takes a share of the flour as his pay, and sells it on the market of the next town."
)
LINKS = "<ul><li><a href=/a>Home</a><li><a href=/b>About us</a><li><a href=/c>Shop</a></ul>"


def main_text(markup: str) -> str:
    return page.text_of(page.parse_text(f"<html><body>{markup}</body></html>"))


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "<main>{}</main>",
        "<article>{}</article>",
        "<main><article>{}</article></main>",
        "<div><div><div>{}</div></div></div>",
        "<table><tr><td>{}</td></tr></table>",
        "<form action=/default.aspx><input type=hidden name=__VIEWSTATE value=x><select><option>One</select>{}"
        "<button>Send</button><textarea>write here</textarea></form>",
        "<div class=page-with-sidebar>{}</div>",
        "<div hidden id=S:0>{}</div>",
    ],
)
@pytest.mark.parametrize(
    "frame",
    [
        "{}",
        f"<nav>{LINKS}</nav>{{}}",
        f"{LINKS}{{}}",
        "<header><a href=/>The Valley</a> since 1901</header>{}<footer>All rights reserved, imprint</footer>",
        "{}<aside><h3>Weather</h3><p>Rain.</p></aside>",
        "{}<div id=comments><h3>2 comments</h3><div class=comment><p>Nice mill!</p></div></div>",
        f"{{}}<section class=related-posts><h2>More stories</h2>{LINKS}</section>",
        "{}<div class='share-buttons'>Share this on the web</div>",
        "<div class=cookie-notice>We use cookies to make mills better.</div>{}",
        "<form class=search><label>Search</label><input name=q></form>{}",
    ],
)
def test_the_article_stays_and_its_frame_goes(around, frame):
    assert main_text(frame.format(around.format(STORY))) == TEXT


def test_many_comments_do_not_become_the_article():
    comments = "".join(f"<div class=comment><p>Comment {n}: what a fine mill, and so well kept!</p></div>" for n in range(90))
    long = STORY + "<p>The wheel has forty paddles of oak, and is as old as the house beside it.</p>" * 20
    assert "Comment" not in main_text(f"<article>{long}</article><div class=comments>{comments}</div>")


def test_a_forum_of_which_all_is_comments_keeps_them():
    posts = "".join(f"<div class=comment><p>Post {n}: what a fine mill, and so well kept!</p></div>" for n in range(9))
    assert main_text(f"<h1>Mills</h1><div class=thread>{posts}</div>").count("Post") == 9


def test_lists_and_tables_of_content_stay():
    facts = "<ul><li>The wheel has forty paddles of oak.</li><li>The <a href=/s>stones</a> came by ship.</li></ul>"
    assert main_text(facts) == "- The wheel has forty paddles of oak.\n- The stones came by ship."
    table = "<table><tr><th></th><th>rye</th><th>wheat</th></tr><tr><td>1901</td><td>12</td><td>30</td></tr></table>"
    assert main_text(f"{STORY}<figure class=wp-block-table>{table}</figure>") == f"{TEXT}\n\n\trye\twheat\n1901\t12\t30"
    assert main_text(f"<p>By year:</p>{table}") == "By year:\n\n\trye\twheat\n1901\t12\t30"


def test_an_empty_first_cell_at_the_start_of_the_text():
    table = "<table><tr><td>&nbsp;</td><td>rye</td></tr><tr><td>1901</td><td>12</td></tr></table>"
    assert page.text_of(page.parse_text(table), main_content=False) == "\trye\n1901\t12"


def test_the_work_on_a_page_is_bounded(monkeypatch):
    """Elements within elements are not counted at every level without end, and the text is there all the same."""
    nested = "<div class=share><ul><li><a href=x>l</a><p>Some text that is long enough to be taken for a paragraph.</p>" * 300
    looked_at = []
    nodes = main_content.Budget.nodes

    def counted(budget, node, selector):
        found = nodes(budget, node, selector)
        looked_at.append(len(found))
        return found

    monkeypatch.setattr(main_content.Budget, "nodes", counted)
    monkeypatch.setattr(main_content, "EFFORT", 2_000)
    assert "Some text" in main_text(f"{STORY}{nested}")
    assert sum(looked_at) < 5_000


LABELLED = sorted((Path(__file__).parent / "pages").glob("*.html.zst"))


def f1(found: str, right: str) -> float:
    """F1 of words, with their multiplicity."""
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in (found, right)]
    return 2 * (counts[0] & counts[1]).total() / (counts[0].total() + counts[1].total())


def test_labelled_pages():
    scores = {}
    for file in LABELLED:
        right = file.with_name(f"{file.name.partition('.')[0]}.txt").read_text("utf-8")
        scores[file.name] = f1(page.text_of(page.parse(zstandard.decompress(file.read_bytes()))), right)
    assert len(scores) == 12
    assert sum(scores.values()) / len(scores) >= 0.93, scores
    assert min(scores.values()) >= 0.5, scores
