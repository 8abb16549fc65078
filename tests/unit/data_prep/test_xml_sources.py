"""Articles, forums, books and translation memories in XML: what is text, what is said of it, and what a fault costs."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.document import Document, SetAside
from data_prep.sources import READERS, epub
from data_prep.sources.files import Unreadable
from data_prep.sources.xml_reader import cut, parse, texts
from tests.unit.data_prep.test_web_sources import source


def read_all(folder: Path, kind: str, **settings) -> tuple[list[Document], list[SetAside]]:
    """What a source gives for the files of a folder."""
    chosen = source(type=kind, paths=["."], **settings)
    items = [item for piece in READERS[kind].pieces(chosen, folder) for item in READERS[kind].read(piece, chosen)]
    return [item for item in items if isinstance(item, Document)], [item for item in items if isinstance(item, SetAside)]


def cut_of(text: str, tag: str, limit: int = 1 << 20) -> list[str | None]:
    return list(cut(io.BytesIO(text.encode()), tag, limit))


# the reader of XML


def test_no_entity_is_expanded():
    bomb = '<!DOCTYPE a [<!ENTITY x "xx"><!ENTITY y "&x;&x;"> <!ENTITY z SYSTEM "file:///etc/hostname">]>'
    (text,) = texts(io.BytesIO(f"<?xml version='1.0'?>{bomb}<a>&y;&z;&alpha;&lt;&#65;&#0; R&D</a>".encode()))
    assert parse(text).text == "&y;&z;α<A R&D"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "koi8-r"])
def test_encodings_as_declared(encoding):
    word = "мельница" if encoding == "koi8-r" else "Mühle"
    raw = f'<?xml version="1.0" encoding="{encoding}"?><a>{word}</a>'.encode(encoding)
    assert parse("".join(texts(io.BytesIO(raw)))).text == word


def test_unknown_encoding_is_named():
    with pytest.raises(Unreadable, match="x-none"):
        list(texts(io.BytesIO(b'<?xml version="1.0" encoding="x-none"?><a/>')))


def test_records_are_cut_out_whole():
    assert cut_of('<r><row a=">"/><rows/><row>x</row><!-- <row/> --><n:row>y</n:row></r>', "row") == [
        '<row a=">"/>', "<row>x</row>", "<n:row>y</n:row>",
    ]  # fmt: skip


def test_a_record_without_its_end_costs_itself():
    assert cut_of("<r><row>a<row>b</row><row>c", "row") == ["<row>a", "<row>b</row>", "<row>c"]


def test_a_record_over_the_limit_is_told():
    long = "x" * (3 << 20)
    assert cut_of(f"<r><row>a</row><row>{long}</row><row>b</row></r>", "row", 1 << 20) == ["<row>a</row>", None, "<row>b</row>"]


def test_prefixes_need_no_declaration():
    assert parse('<p xlink:href="a"><mml:mi>x</mml:mi></p>')[0].text == "x"


@given(st.text(max_size=80))
def test_any_text_is_cut_and_given_whole(text):
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    kept = "".join(c for c in text if c in "\t\n\r" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff"))
    (row,) = cut_of(f"<r><row>{escaped}</row></r>".encode("utf-8", "ignore").decode(), "row")
    assert (parse(row).text or "") == kept.replace("\r\n", "\n").replace("\r", "\n")


# JATS and TEI

JATS = """<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS 1.0//EN" "JATS-archivearticle1.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML"
article-type="research-article"
 xml:lang="en"><front><journal-meta><journal-title-group><journal-title>Mills</journal-title></journal-title-group></journal-meta>
<article-meta><article-id pub-id-type="pmc">123</article-id><article-id pub-id-type="doi">10.1/x</article-id>
<title-group><article-title>The &alpha; of 10<sup>6</sup> mills</article-title></title-group>
<contrib-group><contrib contrib-type="author"><name><surname>M&uuml;ller</surname><given-names>J</given-names></name><xref
 ref-type="aff">1</xref></contrib><contrib contrib-type="editor"><name><surname>Ed</surname></name></contrib></contrib-group>
<pub-date pub-type="epub"><day>5</day><month>3</month><year>2001</year></pub-date><pub-date><year>2002</year></pub-date>
<permissions><copyright-statement>(c) 2001</copyright-statement><license
 xlink:href="http://creativecommons.org/licenses/by/4.0/"><license-p>Open.</license-p></license></permissions>
<related-article related-article-type="retraction-forward"/>
<abstract><p>Abstract, p &lt; 0.05.</p></abstract></article-meta></front>
<body><sec><label>1</label><title>Wheels</title><p>As shown [<xref ref-type="bibr">1</xref>,<xref ref-type="bibr">2</xref>], by
others<sup><xref ref-type="bibr">3</xref>,<xref ref-type="bibr">4</xref></sup> and (<xref ref-type="bibr">Roe, 2001</xref>), not
5 (<xref ref-type="fig">Figure 1</xref>); CO<sub>2</sub>, log<sub>10 </sub>5, 10<sup>-6</sup>
<inline-formula><alternatives><tex-math>\\documentclass{minimal}\\begin{document}$x^2$\\end{document}</tex-math><mml:math>
<mml:mi>x</mml:mi></mml:math></alternatives></inline-formula>.</p><disp-formula><mml:math><mml:msup><mml:mi>y</mml:mi><mml:mn>2</mml:mn>
</mml:msup></mml:math><label>(1)</label></disp-formula>
<table-wrap><label>Table 1</label><caption><p>Turns.</p></caption><table><tr><th rowspan="2">a</th><th colspan="2">b</th></tr>
<tr><td>1</td><td>-2.5</td></tr></table></table-wrap><list
list-type="order"><list-item><p>one</p></list-item><list-item><p>two</p>
</list-item></list></sec></body><back><ref-list><ref><mixed-citation>Gone</mixed-citation></ref></ref-list></back></article>
"""


def test_jats(tmp_path):
    (tmp_path / "a.nxml").write_text(JATS)
    (document,), aside = read_all(tmp_path, "jats")
    assert not aside
    assert document.text == (
        "The α of 10^6 mills\n\nAbstract, p < 0.05.\n\nWheels\n\nAs shown, by others and (Roe, 2001), not 5 (Figure 1); CO2, "
        "log_10 5, 10^-6 $x^2$.\n\ny^2 (1)\n\nTable 1. Turns.\n\na\tb\n\t1\t-2.5\n\n1. one\n2. two"
    )
    assert document.metadata == {
        "title": "The α of 10^6 mills", "author": "J Müller", "journal": "Mills", "date": "2001-03-05", "language": "en",
        "article_type": "research-article", "licence": "CC-BY-4.0", "pmcid": "PMC123", "doi": "10.1/x",
        "retraction": "retracted",
        "url": "https://pmc.ncbi.nlm.nih.gov/articles/PMC123/", "original_id": "PMC123",
    }  # fmt: skip


def test_jats_without_tables(tmp_path):
    (tmp_path / "a.nxml").write_text(JATS)
    (document,), _ = read_all(tmp_path, "jats", tables=False)
    assert "Table 1. Turns." in document.text and "-2.5" not in document.text


def test_articles_within_articles_and_damaged_ones(tmp_path):
    good = "<article><body><p>{}</p></body></article>"
    inner = "<article><body><p>Whole.</p></body><sub-article><body><p>Review.</p></body></sub-article></article>"
    (tmp_path / "a.xml").write_text(f"<set>{inner}<article><body><p>Cut off</body></article>{good.format('After.')}</set>")
    documents, aside = read_all(tmp_path, "jats")
    assert [(d.id, d.text) for d in documents] == [("s/a.xml", "Whole."), ("s/a.xml/1", "Review."), ("s/a.xml#2", "After.")]
    assert len(aside) == 1 and "damaged XML" in aside[0].reason


def test_notes_of_tables_and_empty_articles(tmp_path):
    film = "<media><label>Video 1.</label><caption><p>Turning.</p></caption></media>"
    note = film + "<table-wrap-foot><fn><p><sup>a</sup>Seen.</p></fn></table-wrap-foot>"
    (tmp_path / "a.xml").write_text(f"<s><article><body><p>On 10<sup>6</sup>{note}</p></body></article><article/></s>")
    documents, _ = read_all(tmp_path, "jats")
    assert [document.text for document in documents] == ["On 10^6\n\nVideo 1. Turning.\n\na Seen.", ""]


def test_xml_of_another_kind_is_named(tmp_path):
    (tmp_path / "a.xml").write_text("<html><p>x</p></html>")
    with pytest.raises(Unreadable, match="not JATS"):
        read_all(tmp_path, "jats")


def test_tei(tmp_path):
    (tmp_path / "a.tei.xml").write_text(
        """<TEI xmlns="http://www.tei-c.org/ns/1.0"><teiHeader xml:lang="en"><fileDesc><titleStmt>
        <title>On mills</title></titleStmt>
        <publicationStmt><availability><licence target="https://creativecommons.org/licenses/by/4.0/"/></availability><date
        when="2001-02-03"/></publicationStmt><sourceDesc><biblStruct><analytic><author><persName><forename>A</forename>
        <surname>Roe</surname></persName></author><idno type="DOI">10.1/y</idno></analytic></biblStruct></sourceDesc></fileDesc>
        <profileDesc><abstract><p>Short.</p></abstract></profileDesc></teiHeader><text><body><div><head n="1">Wheels</head>
        <p>Seen <ref type="bibr">[1]</ref> in <ref type="figure">Fig. 2</ref>.</p><formula>a = b</formula></div></body>
        <back><listBibl><biblStruct/></listBibl></back></text></TEI>"""
    )
    (document,), _ = read_all(tmp_path, "tei")
    assert document.text == "On mills\n\nShort.\n\nWheels\n\nSeen in Fig. 2.\n\na = b"
    assert document.metadata == {
        "title": "On mills", "author": "A Roe", "date": "2001-02-03", "licence": "CC-BY-4.0", "language": "en", "doi": "10.1/y",
        "url": "https://doi.org/10.1/y",
    }  # fmt: skip


# Stack Exchange

POSTS = """<?xml version="1.0" encoding="utf-8"?>
<posts>
  <row Id="4" PostTypeId="2" ParentId="1" Score="9" Body="&lt;p&gt;High.&lt;/p&gt;" ContentLicense="CC BY-SA 3.0" />
  <row Id="1" PostTypeId="1" AcceptedAnswerId="3" Score="5" CreationDate="2010-01-02T03:04:05.000" Title="Why &amp; how?"
    Tags="&lt;mills&gt;&lt;c++&gt;"
    Body="&lt;p&gt;Code:&lt;/p&gt;&#xA;&lt;pre&gt;&lt;code&gt;if x:&#xA;    y()&#xA;&lt;/code&gt;&lt;/pre&gt;"
    ContentLicense="CC BY-SA 4.0" />
  <row Id="2" PostTypeId="2" ParentId="1" Score="-1" Body="&lt;p&gt;Low.&lt;/p&gt;" />
  <row Id="x" PostTypeId="1" Body="broken" />
  <row Id="3" PostTypeId="2" ParentId="1" Score="2" Body="&lt;p&gt;Accepted.&lt;/p&gt;" />
  <row Id="5" PostTypeId="2" ParentId="99" Score="2" Body="orphan" />
  <row Id="6" PostTypeId="4" Score="2" Body="tag wiki" />
  <row Id="7" PostTypeId="1" Score="0" Title="Unanswered" Body="&lt;p&gt;Well?&lt;/p&gt;" />
</posts>"""


def test_stack_exchange(tmp_path):
    folder = tmp_path / "mills.stackexchange.com"
    folder.mkdir()
    (folder / "Posts.xml").write_text(POSTS)
    (folder / "Users.xml").write_text("<users><row Id='1'/></users>")
    documents, aside = read_all(tmp_path, "stack_exchange")
    assert [d.text for d in documents] == [
        "Why & how?\n\nCode:\n\nif x:\n    y()\n\nAnswer: Accepted.\n\nAnswer: High.\n\nAnswer: Low.", "Unanswered\n\nWell?",
    ]  # fmt: skip
    assert documents[0].metadata == {
        "title": "Why & how?", "url": "https://mills.stackexchange.com/questions/1", "date": "2010-01-02T03:04:05.000",
        "licence": "CC-BY-SA-3.0 AND CC-BY-SA-4.0", "tags": ["mills", "c++"], "original_id": "1", "score": 5, "answers": 3,
        "accepted": True,
    }  # fmt: skip
    assert len(aside) == 2 and "row 4" in aside[0].where and aside[1].reason.startswith("1 answers")
    documents, _ = read_all(tmp_path, "stack_exchange", min_score=2, answered_only=True)
    assert [d.metadata["answers"] for d in documents] == [2]


def test_packed_dumps_are_refused_in_plain_words(tmp_path):
    (tmp_path / "mills.stackexchange.com.7z").write_bytes(b"7z\xbc\xaf\x27\x1c")
    with pytest.raises(Unreadable, match="unpack it"):
        read_all(tmp_path, "stack_exchange")


# EPUB


def book_of(path: Path, more: dict[str, str] | None = None) -> None:
    """A book of two chapters, with a table of contents."""
    package = """<package xmlns="http://www.idpf.org/2007/opf" unique-identifier="i" version="3.0"><metadata
    xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="i">urn:isbn:1</dc:identifier><dc:title>Mills</dc:title>
    <dc:creator>A. Roe</dc:creator><dc:language>en</dc:language><dc:rights>CC BY
4.0</dc:rights><dc:date>1901</dc:date></metadata>
    <manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/><item id="b"
href="b%20b.xhtml"
    media-type="application/xhtml+xml"/><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/><item id="p"
    href="p.svg"
    media-type="image/svg+xml"/></manifest><spine><itemref idref="nav"/><itemref idref="a"/><itemref idref="p"/><itemref
    idref="b"/></spine></package>"""
    files = {
        "META-INF/container.xml": '<container><rootfiles><rootfile full-path="OEBPS/c.opf"/></rootfiles></container>',
        "OEBPS/c.opf": package,
        "OEBPS/nav.xhtml": "<html><body><nav>Contents</nav></body></html>",
        "OEBPS/a.xhtml": '<?xml version="1.0"?><html><head><title/><script src="x"/></head><body><a id="p1"/><h1>One</h1>'
        "<p>Of 10<sup>6</sup> &amp; caf&#233;.</p></body></html>",
        "OEBPS/b b.xhtml": "<html><body><p>Two.</p></body></html>",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**files, **(more or {})}.items():
            archive.writestr(name, content)


def test_epub(tmp_path):
    book_of(tmp_path / "a.epub")
    (book,), aside = read_all(tmp_path, "epub")
    assert not aside and book.text == "One\n\nOf 10^6 & café.\n\nTwo."
    assert book.metadata == {"title": "Mills", "author": "A. Roe", "language": "en", "date": "1901", "licence": "CC-BY-4.0",
                             "original_id": "urn:isbn:1"}  # fmt: skip
    chapters, _ = read_all(tmp_path, "epub", per="chapter")
    assert [(d.id, d.metadata["chapter"]) for d in chapters] == [
        ("s/a.epub#0", "OEBPS/a.xhtml"),
        ("s/a.epub#1", "OEBPS/b b.xhtml"),
    ]


@pytest.mark.parametrize(
    ("method", "locked"), [("http://www.w3.org/2001/04/xmlenc#aes128-cbc", True), ("http://ns.adobe.com/pdf/enc#RC", False)]
)
def test_encrypted_books_are_named(tmp_path, method, locked):
    encryption = (
        f'<encryption><EncryptedData><EncryptionMethod Algorithm="{method}"/><CipherData><CipherReference URI="OEBPS/a.xhtml"/>'
        "</CipherData></EncryptedData></encryption>"
    )
    book_of(tmp_path / "a.epub", {"META-INF/encryption.xml": encryption})
    if locked:
        with pytest.raises(Unreadable, match="DRM"):
            read_all(tmp_path, "epub")
    else:
        assert len(read_all(tmp_path, "epub")[0]) == 1


def test_a_missing_chapter_costs_itself(tmp_path):
    book_of(tmp_path / "a.epub")
    with zipfile.ZipFile(tmp_path / "a.epub") as whole, zipfile.ZipFile(tmp_path / "b.epub", "w") as part:
        for name in whole.namelist():
            if not name.endswith("a.xhtml"):
                part.writestr(name, whole.read(name))
    (tmp_path / "a.epub").unlink()
    (book,), (aside,) = read_all(tmp_path, "epub")
    assert book.text == "Two." and "OEBPS/a.xhtml" in aside.where


def test_elements_closed_where_they_open_hold_nothing():
    assert epub.text_of("<html><body><p>a<i/>b<br/>c</p><div/><p>d</p></body></html>") == "ab\nc\n\nd"


# TMX

TMX = """<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx version="1.4"><header srclang="en-US"/><body>
<tu><tuv xml:lang="en-US"><seg>Press <bpt i="1">&lt;b></bpt>Start<ept i="1">&lt;/b></ept>, not
<ph>&lt;br/></ph>10<hi>%</hi>.</seg></tuv>
<tuv xml:lang="de"><seg>Start drücken, nicht 10%.</seg></tuv></tu>
<tu><tuv xml:lang="en-US"><seg>Only English</seg></tuv></tu>
<tu><tuv xml:lang="en-US"><seg>Broken</tuv></tu>
<tu><tuv xml:lang="DE"><seg>Zwei</seg></tuv><tuv lang="en"><seg>Two</seg></tuv></tu></body></tmx>"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_tmx(tmp_path, encoding):
    (tmp_path / "a.tmx").write_bytes(TMX.encode(encoding))
    (document,), aside = read_all(tmp_path, "tmx", languages=["en", "de"], template="{language}: {line}")
    assert document.text == "en: Press Start, not 10%.\nde: Start drücken, nicht 10%.\n\nen: Two\nde: Zwei"
    assert document.metadata["pairs"] == 2
    assert ["unit 3" in aside[0].where, aside[1].reason == "1 of 4 units lack one of en, de; there are: en-us, de, en"] == [
        True,
        True,
    ]
