"""Archives of the web, dumps and curated sets: real small ones, whole and damaged."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import os
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_prep.document import Document, PassedOver, SetAside
from data_prep.extract import _read
from data_prep.recipe import Recipe
from data_prep.sources import READERS, faq, page_facts, papers, signals, wikitext
from data_prep.sources import page as pages
from data_prep.sources.site_rules import SiteRules
from strict_json import ConfigError

PAGE = """<html lang=en><head><title>Mills</title><link rel="license" href="https://creativecommons.org/licenses/by-sa/4.0/">
<meta name="robots" content="noindex, noai"></head><body><nav><a href=/>Home</a> <a href=/x>Shop</a></nav>
<main><h1>On mills</h1><p>A mill grinds grain between two stones, turned by water or by wind.</p>
<p>The miller takes a share of the flour as his pay, &amp; sells it.</p></main><script>var a = 1</script></body></html>"""


def source(**values):
    recipe = {"output": "x", "tokenizer": {"vocab_size": 300}, "sources": [{"name": "s", **values}]}
    return Recipe.model_validate_json(json.dumps(recipe)).sources[0]


def read(base: Path, **values) -> tuple[list[Document], list[SetAside]]:
    """(documents, set aside), as the extract stage reads them."""
    chosen = source(**values)
    items = list(_read([(chosen, piece) for piece in READERS[chosen.type].pieces(chosen, base)]))
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, SetAside)]


def warc_record(url: str, body: bytes, kind: str = "response", http: str | None = "text/html", more: str = "") -> bytes:
    if http:
        body = f"HTTP/1.1 200 OK\r\nContent-Type: {http}\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2024-05-18T01:58:10Z\r\n"
    head += f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{abs(hash(url)) % 10**12:012d}>\r\n"
    kind_of_content = "application/http; msgtype=response" if http else "text/plain"
    return f"{head}Content-Type: {kind_of_content}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def page(number: int) -> bytes:
    return f"<html><body><p>Page {number}: the wheel turns and the stones grind, day after day.</p></body></html>".encode()


def test_a_page_with_its_licence_and_signals(tmp_path):
    robots = warc_record("https://a.org/robots.txt", b"User-agent: GPTBot\nDisallow: /", http="text/plain")
    more = "X-Robots-Tag: noimageai\r\nTDM-Reservation: 1\r\n"
    records = [
        robots,
        warc_record("https://a.org/mills", PAGE.encode(), more=more),
        warc_record("https://a.org/x", b"%PDF", http="application/pdf"),
    ]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(map(gzip.compress, records)))
    (document,), aside = read(tmp_path, type="warc", paths=["a.warc.gz"])
    assert not aside
    assert "A mill grinds grain" in document.text and "his pay, & sells it." in document.text
    assert "Home" not in document.text and "var a" not in document.text
    assert document.metadata["url"] == "https://a.org/mills" and document.metadata["title"] == "Mills"
    assert document.metadata["licence"] == "CC-BY-SA-4.0" and document.metadata["date"].startswith("2024-05-18T01:58:10")
    assert document.metadata["opt_out"] == ["X-Robots-Tag: noimageai", "meta: noai", "tdm-reservation", "robots.txt: GPTBot"]


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_wet_with_any_line_ends(tmp_path, line_end):
    records = [warc_record(f"http://a.org/{n}", f"Text {n} ü".encode(), "conversion", None) for n in range(3)]
    (tmp_path / "a.warc.wet").write_bytes(b"".join(records).replace(b"\r\n", line_end))
    documents, aside = read(tmp_path, type="warc", paths=["."])
    assert ([d.text.strip() for d in documents], aside) == (["Text 0 ü", "Text 1 ü", "Text 2 ü"], [])


def test_http_bodies_that_are_not_what_their_header_says(tmp_path):
    """Crawlers unpack a body and keep its header; servers count wrongly."""
    chunks = "Transfer-Encoding: chunked\r\n"
    bodies = {
        "not chunked": (page(0), chunks),
        "size beyond the end": (b"FFFFF\r\n" + page(1) + b"\r\n0\r\n\r\n", chunks),
        "not gzip": (page(2), "Content-Encoding: gzip\r\n"),
        "gzip cut off": (gzip.compress(page(3) + b" " * 500 + os.urandom(500))[:-400], "Content-Encoding: gzip\r\n"),
        "bare deflate": (zlib.compress(page(4))[2:-4], "Content-Encoding: deflate\r\n"),
        "not brotli": (page(5), "Content-Encoding: br\r\n"),
        "broken brotli": (b"\x8b\x02\x80xyz", "Content-Encoding: br\r\n"),
    }
    records = [warc_record(f"http://a.org/{n}", body, more=more) for n, (body, more) in enumerate(bodies.values())]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    documents, (aside,) = read(tmp_path, type="warc", paths=["a.warc"])
    assert [d.text[:7] for d in documents] == [f"Page {n}:" for n in range(6)]
    assert "record 7" in aside.where and "br" in aside.reason


def test_http_headers_with_bare_line_ends(tmp_path):
    (tmp_path / "a.warc").write_bytes(warc_record("http://a.org/1", page(1)).replace(b"\r\n", b"\n"))
    (document,), aside = read(tmp_path, type="warc", paths=["a.warc"])
    assert document.text.startswith("Page 1:") and not aside


def test_http_bodies_that_are_packed(tmp_path):
    chunked = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (page(1)[:30], page(1)[30:])) + b"0\r\n\r\n"
    records = [
        warc_record("http://a.org/1", chunked, more="Transfer-Encoding: chunked\r\n"),
        warc_record("http://a.org/2", gzip.compress(page(2)), more="Content-Encoding: gzip\r\n"),
    ]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    documents, _ = read(tmp_path, type="warc", paths=["a.warc"])
    assert [d.text[:7] for d in documents] == ["Page 1:", "Page 2:"]


@pytest.mark.parametrize("packed", [True, False])
def test_one_damaged_record_harms_no_other(tmp_path, packed):
    records = [warc_record(f"http://a.org/{n}", page(n)) for n in range(6)]
    parts = [gzip.compress(record) for record in records] if packed else records
    parts[2] = parts[2][:40] + bytes(20) + parts[2][60:] if packed else parts[2].replace(b"WARC/1.0", b"WXRC/1.0")
    parts[5] = parts[5][: len(parts[5]) // 2]
    (tmp_path / "a.warc.gz").write_bytes(b"".join(parts))
    documents, aside = read(tmp_path, type="warc", paths=["a.warc.gz"])
    assert {d.text[:7] for d in documents} >= {"Page 0:", "Page 1:", "Page 3:", "Page 4:"}
    assert aside and all(str(tmp_path / "a.warc.gz") in a.where for a in aside)


@settings(max_examples=60, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 3000), junk=st.binary(min_size=1, max_size=30), packed=st.booleans(), cut=st.booleans())
def test_no_damage_to_a_warc_file_escapes(tmp_path, place, junk, packed, cut):
    records = [warc_record(f"http://a.org/{n}", page(n)) for n in range(4)]
    raw = b"".join(gzip.compress(r, mtime=0) if packed else r for r in records)
    place %= len(raw)
    raw = raw[:place] + (b"" if cut else junk + raw[place + len(junk) :])
    (tmp_path / "a.warc.gz").write_bytes(raw)
    chosen = source(type="warc", paths=["a.warc.gz"])
    for piece in READERS["warc"].pieces(chosen, tmp_path):
        for item in READERS["warc"].read(piece, chosen):
            assert isinstance(item, (Document, PassedOver, SetAside))


DUMP = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="de"><siteinfo>
<base>https://de.wikipedia.org/wiki/Wikipedia:Hauptseite</base><namespaces><namespace key="6">Datei</namespace>
<namespace key="14">Kategorie</namespace></namespaces></siteinfo>{pages}</mediawiki>"""
ARTICLE = """<page><title>{title}</title><ns>{ns}</ns><id>{id}</id>{redirect}<revision><id>9</id>
<timestamp>2024-01-02T03:04:05Z</timestamp><text>{text}</text></revision></page>"""
MARKUP = """'''Mühle''' ({{IPA|x}}; von [[Latein|lat.]] ''mola'') ist ein
[[Datei:x.jpg|mini|Bild [[y]]]] Bauwerk.&lt;ref&gt;Buch&lt;/ref&gt;

== Arten ==
* [[Windmühle]]
* Wassermühle {{lang|en|watermill}}
{| class="wikitable"
| a || {| b |}
|}
=== Leer ===
== Weblinks ==
* [http://x.org Seite]
[[Kategorie:Bauwerk]]"""


def dump() -> bytes:
    pages = [
        ARTICLE.format(title="Mühle am Bach", ns=0, id=1, redirect="", text=MARKUP),
        ARTICLE.format(title="Alt", ns=0, id=2, redirect='<redirect title="Neu" />', text="#WEITERLEITUNG [[Neu]]"),
        ARTICLE.format(title="Diskussion:X", ns=1, id=3, redirect="", text="Hallo"),
        ARTICLE.format(title="Zwei", ns=0, id=4, redirect="", text="Zweiter Artikel."),
    ]
    return DUMP.format(pages="".join(pages)).encode()


def test_a_wikipedia_dump(tmp_path):
    (tmp_path / "dewiki.xml.bz2").write_bytes(bz2.compress(dump()[:900])[:0] + bz2.compress(dump()))
    documents, aside = read(tmp_path, type="wikipedia", paths=["dewiki.xml.bz2"])
    assert not aside and [d.id for d in documents] == ["s/dewiki.xml.bz2#1", "s/dewiki.xml.bz2#4"]
    first = documents[0]
    assert first.text == "Mühle (von lat. mola) ist ein\nBauwerk.\n\nArten\n\n- Windmühle\n- Wassermühle watermill"
    assert first.metadata["url"] == "https://de.wikipedia.org/wiki/M%C3%BChle_am_Bach"
    assert (first.metadata["language"], first.metadata["licence"]) == ("de", "CC-BY-SA-4.0")


def test_a_dump_that_is_cut_off_or_a_bomb(tmp_path):
    cut = dump()[: dump().index(b"Zwei") + 2]
    (tmp_path / "a.xml.bz2").write_bytes(bz2.compress(cut))
    documents, (aside,) = read(tmp_path, type="wikipedia", paths=["a.xml.bz2"])
    assert [d.metadata["page_id"] for d in documents] == [1] and "page 4" in aside.where
    entities = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
    (tmp_path / "b.xml").write_bytes(entities + b"<mediawiki>&b;</mediawiki>")
    documents, (aside,) = read(tmp_path, type="wikipedia", paths=["b.xml"])
    assert not documents and "no <page>" in aside.reason
    page = ARTICLE.format(title="A", ns=0, id=1, redirect="", text="Text &b; more.")
    (tmp_path / "c.xml").write_bytes(entities + b"<mediawiki>" + page.encode() + b"</mediawiki>")
    (document,), _ = read(tmp_path, type="wikipedia", paths=["c.xml"])
    assert document.text == "Text &b; more."


def test_one_damaged_page_harms_no_other(tmp_path):
    whole = [ARTICLE.format(title=f"T{n}", ns=0, id=n, redirect="", text=f"Seite {n} & mehr.") for n in range(5)]
    whole[1] = whole[1].replace("Seite 1", "Seite \x01 1 & < 2")
    whole[2] = whole[2].replace("</title>", "")
    whole[3] = whole[3].replace("</page>", "")
    (tmp_path / "a.xml").write_text(DUMP.format(pages="".join(whole)))
    documents, aside = read(tmp_path, type="wikipedia", paths=["a.xml"])
    assert [d.text for d in documents] == ["Seite 0 & mehr.", "Seite 4 & mehr."]
    assert [a.where.rpartition(", ")[2] for a in aside] == ["page 2", "page 3", "page 4"]


def test_namespaces_of_old_dumps(tmp_path):
    pages = [
        ARTICLE.format(title=t, ns=0, id=1, redirect="", text="x y").replace("<ns>0</ns>", "") for t in ("Datei:A", "B: C")
    ]
    (tmp_path / "a.xml").write_text(DUMP.format(pages="".join(pages)))
    documents, aside = read(tmp_path, type="wikipedia", paths=["a.xml"])
    assert [d.metadata["title"] for d in documents] == ["B: C"] and not aside


@settings(max_examples=150, deadline=2000)
@given(st.text(alphabet="[]{}|='\n<>/ref!:*#ab &;-"))
def test_any_markup_becomes_text_without_brackets(markup):
    text = wikitext.clean(markup, frozenset({"file"}), frozenset())
    assert "[[" not in text and "{{" not in text


@pytest.mark.parametrize("markup", ["{{" * 5000, "[[" * 5000, "{{a|" * 2000 + "}}" * 2000, "<ref>" * 3000])
def test_markup_without_end(markup):
    with pytest.raises(ValueError, match=r"open at once, more than 500"):
        wikitext.clean(markup, frozenset(), frozenset())
    assert "x" in wikitext.clean(f"{markup[:400]}\n\nx", frozenset(), frozenset())


def test_questions_and_answers(tmp_path):
    squad = {"data": [{"title": "T", "paragraphs": [{"context": "Mills grind.", "qas": [
        {"id": "1", "question": "What do mills do?", "answers": [{"text": "grind"}, {"text": "x"}, {"text": "grind"}]},
        {"id": "2", "question": "Why?", "is_impossible": True, "answers": []}]}]}]}  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(squad))
    (tmp_path / "b.jsonl").write_text('{"question": "Who?", "answer": "Me"}\n{"x": 1}\nnot json\n')
    documents, aside = read(tmp_path, type="question_answer", paths=["."])
    assert [d.text for d in documents] == [
        "Mills grind.\n\nQuestion: What do mills do?\nAnswer: grind",
        "Question: Who?\nAnswer: Me",
    ]
    assert documents[0].metadata == {"question_ids": ["1"], "title": "T"}
    assert [a.where.split(", ")[1] for a in aside] == ["line 2", "line 3"]


@pytest.mark.parametrize(
    "page",
    [
        "<h2>Why mills?</h2><p>For flour.</p><h2>Who?</h2><p>Millers.</p><h2>About</h2><p>x</p>",
        "<dl><dt>Why mills?</dt><dd>For flour.</dd><dt>Who?</dt><dd>Millers.</dd></dl>",
        "<details><summary>Why mills?</summary><p>For flour.</p></details><details><summary>Who?</summary>Millers.</details>",
        '<script type="application/ld+json">{"@type": "FAQPage", "mainEntity": [{"@type": "Question", "name": "Why mills?", '
        '"acceptedAnswer": {"@type": "Answer", "text": "<p>For flour.</p>"}}, {"@type": "Question", "name": "Who?", '
        '"acceptedAnswer": {"text": "Millers."}}]}</script><p>x</p>',
    ],
)
def test_faq_pages(page):
    found = faq.pairs(pages.parse(f"<html><body>{page}</body></html>".encode()))
    assert found == [("Why mills?", "For flour."), ("Who?", "Millers.")]


def test_parallel_text(tmp_path):
    (tmp_path / "t.en").write_text("one\ntwo\n\nfour\n")
    (tmp_path / "t.es").write_text("uno\ndos\ntres\ncuatro\n")
    (tmp_path / "u.en").write_text("one\n")
    (tmp_path / "u.es").write_text("uno\ndos\n")
    documents, (aside,) = read(tmp_path, type="parallel_text", paths=["."], languages=["en", "es"], pairs_per_document=2)
    assert [d.text for d in documents] == ["one\nuno\n\ntwo\ndos", "four\ncuatro"]
    assert aside.reason == "aligned files of different numbers of lines: u.en has 1, u.es has 2"
    (tmp_path / "t.tsv").write_text("1\tone\tuno\nbad\n2\ttwo\tdos\n")
    documents, (aside,) = read(
        tmp_path, type="parallel_text", paths=["t.tsv"], languages=["en", "es"], columns=[1, 2], template="{language}: {line}"
    )
    assert documents[0].text == "en: one\nes: uno\n\nen: two\nes: dos" and aside.where.endswith("t.tsv:2")


def test_papers():
    text, metadata = papers.from_markdown(
        "---\ntitle: 'On mills'\nauthors:\n  - name: A. Miller\nlicense: CC BY 4.0\n---\n# Summary\n"
        "Mills [@old; @new] **grind** "
        "$x_1$ with [stones](http://x).\n\n![A mill.](m.png)\n\n# References\n\nx\n"
    )
    assert text == "On mills\n\nSummary\nMills grind $x_1$ with stones.\n\nA mill."
    assert metadata == {"title": "On mills", "author": "A. Miller", "licence": "CC-BY-4.0"}
    text, metadata = papers.from_latex(
        "\\documentclass{a}\\title{On \\emph{mills}}\n\\begin{document}\\maketitle % note\n\\section{Stones}\nThey "
        "\\emph{grind}~\\cite{x} $a_1$.\n\\begin{equation}x=1\\end{equation}\n"
        "\\begin{itemize}\\item one\\end{itemize}\\end{document}"
    )
    assert text == "On mills\n\nStones\n\nThey grind $a_1$.\n\\begin{equation}x=1\\end{equation}\n\n- one"


def test_csv(tmp_path):
    (tmp_path / "a.csv").write_bytes('\ufeffid;text;n\n1;"two\nlines; ""quoted""";3\nshort;row\n2;last;4\n'.encode())
    documents, (aside,) = read(tmp_path, type="csv", paths=["a.csv"])
    assert [d.text for d in documents] == ['two\nlines; "quoted"', "last"]
    assert documents[1].metadata == {"id": "2", "n": "4"} and aside.where.endswith("a.csv:4")


def test_members_of_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x/one.txt", "first")
        archive.writestr("two.txt", "second")
        archive.writestr("three.jpg", "no text")
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("three.txt")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"third"))
    (tmp_path / "c.zip").write_bytes(b"PK no archive")
    documents, (aside,) = read(tmp_path, type="gutenberg", paths=["."], require_markers=False)
    assert {d.id: d.text for d in documents} == {
        "s/a.zip/x/one.txt": "first",
        "s/a.zip/two.txt": "second",
        "s/b.tar.gz/three.txt": "third",
    }
    assert aside.where == str(tmp_path / "c.zip") and "archive" in aside.reason
    documents, _ = read(tmp_path, type="plaintext", paths=["zip://x/*.txt::a.zip"])
    assert [d.text for d in documents] == ["first"]


def test_a_bomb_is_set_aside(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.sources.unpacking.EXPANSION_FLOOR", 1 << 20)
    monkeypatch.setattr("data_prep.sources.unpacking.EXPANSION", 100)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "ok"}\n' + b"\n" * (64 << 20)))
    documents, (aside,) = read(tmp_path, type="jsonl", paths=["a.jsonl.gz"])
    assert [d.text for d in documents] == ["ok"] and "bomb" in aside.reason


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("https://creativecommons.org/licenses/by-nc-sa/3.0/de/", "CC-BY-NC-SA-3.0-DE"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("CC BY 4.0", "CC-BY-4.0"),
        ("Creative Commons Attribution-ShareAlike 3.0", "CC-BY-SA-3.0"),
        ("Apache License 2.0", "Apache-2.0"),
        ("MIT", "MIT"),
        ("all rights reserved", None),
    ],
)
def test_licences(name, identifier):
    assert signals.spdx(name) == identifier


@settings(max_examples=60, deadline=3000)
@given(st.binary(max_size=400))
def test_any_bytes_are_a_page(raw):
    tree = pages.parse(b"<html><body>" + raw)
    pages.text_of(tree)
    signals.licence_of(tree)
    page_facts.opt_outs(tree, [])
    faq.pairs(tree)


def test_rules_of_sites_from_a_folder_and_from_the_archive(tmp_path):
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "a.org.txt").write_text("User-agent: CCBot\nDisallow: /no/\n")
    (tmp_path / "rules" / "b.org.tdmrep.json").write_text(
        json.dumps([{"location": "/free/*", "tdm-reservation": 0}, {"location": "/*.html$", "tdm-reservation": 1}])
    )
    reserved = b'[{"location": "/", "tdm-reservation": 1, "tdm-policy": "https://c.org/policy.json"}]'
    urls = ["a.org/no/1", "a.org/yes", "b.org/free/x.html", "b.org/x.html", "b.org/x.html?y=1", "c.org/1"]
    records = [warc_record("https://c.org/.well-known/tdmrep.json", reserved, http="application/json")]
    records += [warc_record(f"https://{url}", page(number)) for number, url in enumerate(urls)]
    (tmp_path / "a.warc").write_bytes(b"".join(records))
    values = {"type": "warc", "paths": ["a.warc"], "robots": "rules"}
    documents, aside = read(tmp_path, **values)
    assert not aside
    assert {d.metadata["url"].removeprefix("https://"): d.metadata.get("opt_out") for d in documents} == {
        "a.org/no/1": ["robots.txt: CCBot"],
        "a.org/yes": None,
        "b.org/free/x.html": None,
        "b.org/x.html": ["tdmrep.json"],
        "b.org/x.html?y=1": None,
        "c.org/1": ["tdmrep.json"],
    }
    chosen = source(**values)
    (before,) = READERS["warc"].pieces(chosen, tmp_path)
    (tmp_path / "rules" / "c.org.txt").write_text("")
    assert READERS["warc"].pieces(chosen, tmp_path)[0].changed != before.changed
    with pytest.raises(ConfigError, match="nowhere is no folder"):
        READERS["warc"].pieces(source(**values | {"robots": "nowhere"}), tmp_path)


@settings(max_examples=50)
@given(st.binary(max_size=200), st.text(max_size=40))
def test_any_rules_and_urls(raw, url):
    rules = SiteRules(["CCBot"], None)
    for name in ("robots.txt", ".well-known/tdmrep.json"):
        assert rules.learn(f"https://a.org/{name}", raw)
    assert set(rules.signals(f"https://a.org/{url}", []).get("opt_out", [])) <= {"robots.txt: CCBot", "tdmrep.json"}
    rules.signals(url, [])


def test_translations_by_whole_files(tmp_path):
    with zipfile.ZipFile(tmp_path / "rights.zip", "w") as archive:
        for name, text in {
            "eng": "All are born free.\nYes.",
            "spa": "Todos nacen libres.",
            "xeng": "no",
            "fra": "Tous.",
        }.items():
            archive.writestr(f"rights/{name}.txt", text)
    values = {"type": "parallel_text", "paths": ["rights.zip"], "languages": ["eng", "spa"], "file_names": "{language}.txt"}
    (document,), aside = read(tmp_path, **values, align="files")
    assert not aside and document.text == "All are born free.\nYes.\n\nTodos nacen libres."
    assert document.metadata["languages"] == ["eng", "spa"]
    _, (item,) = read(tmp_path, **values)
    assert "eng.txt has 2, spa.txt has 1" in item.reason
    with pytest.raises(ConfigError, match=r"none ends in deu\.txt"):
        read(tmp_path, **values | {"languages": ["deu", "spa"]})


def test_licences_dates_and_urls_under_the_names_that_data_sets_give_them(tmp_path):
    rows = [
        {"text": "a", "license": "cc-by-4.0", "timestamp": "2024-01-02"},
        {"text": "b", "metadata": {"License": ["mit"], "source_url": "https://a.org", "lang": "de"}},
        {"text": "c", "meta": {"licence": "our own", "language": {"x": 1}}},
        {"text": "d"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    documents, _ = read(tmp_path, type="jsonl", paths=["a.jsonl"], licence="CC0-1.0")
    well_known = [{k: d.metadata.get(k) for k in ("licence", "date", "url", "language")} for d in documents]
    assert well_known == [
        {"licence": "CC-BY-4.0", "date": "2024-01-02", "url": None, "language": None},
        {"licence": "MIT", "date": None, "url": "https://a.org", "language": "de"},
        {"licence": "our own", "date": None, "url": None, "language": {"x": 1}},
        {"licence": "CC0-1.0", "date": None, "url": None, "language": None},
    ]


def text_of(markup: str) -> str:
    return pages.text_of(pages.parse(markup.encode()))


def test_lists_of_content_stay_and_menus_go():
    facts = "<ul><li>The wheel has forty paddles of oak.</li><li>The <a href=/s>stones</a> came by ship from France.</li></ul>"
    menu = "<ul><li><a href=/a>Home</a></li><li><a href=/b>About us</a></li><li><a href=/c>Shop</a></li></ul>"
    text = text_of(f"<html lang=en-GB><body>{menu}<h1>Facts</h1>{facts}</body></html>")
    assert text == "Facts\n\n- The wheel has forty paddles of oak.\n- The stones came by ship from France."
    assert pages.language_of(pages.parse(b"<html lang=en-GB><body>x</body></html>")) == "en"


def test_lone_characters_tables_and_formulas():
    assert "水" in text_of("<body><p><b>水</b>が回す。水車は川のほとりに立ち、粉をひく。</p></body>")
    rows = "<table><tr><td>rye</td><td>12</td></tr><tr><td>wheat</td><td>30</td></tr></table>"
    assert "rye\t12\nwheat\t30" in text_of(f"<body><p>What the mill ground in that year, by the sack:</p>{rows}</body>")
    formula = "<math><semantics><mi>x</mi><annotation encoding='application/x-tex'>x^2</annotation></semantics></math>"
    assert text_of(f"<body><p>The area of the wheel grows as {formula} does.</p></body>").count("x") == 1


@pytest.mark.parametrize("tag", ["<div>", "<ul><li>", "<b><i>"])
def test_pages_nested_beyond_all_measure_are_refused_at_once(tag):
    with pytest.raises(pages.UnreadablePage, match="nested"):
        pages.parse((tag * 200_000 + "text").encode())


@pytest.mark.parametrize(
    ("raw", "declared", "expected"),
    [
        ("süß".encode(), "iso-8859-1", "süß"),
        ("süß".encode("cp1252"), None, "süß"),
        ("\ufeffsüß".encode("utf-16-le"), None, "süß"),
        ("<meta charset=windows-1251>мельница".encode("cp1251"), None, "<meta charset=windows-1251>мельница"),
        ("水車小屋".encode("cp932"), "shift_jis", "水車小屋"),
    ],
)
def test_encodings_of_pages(raw, declared, expected):
    assert pages.decode_page(raw, declared).text == expected
