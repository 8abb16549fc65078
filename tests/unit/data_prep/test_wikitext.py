"""Wikitext -> text: templates of many languages, numbers that must not come out wrong, variants, links, page models."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.document import Document, SetAside
from data_prep.recipe import Recipe
from data_prep.sources import READERS, template_names, template_numbers, templates, wikitext
from data_prep.sources.raised import subscript, superscript
from data_prep.sources.template_arguments import template_data
from data_prep.sources.wikitext_tree import Wiki

ROWS = [
    ("en", "{{ship|HMS|Hood|51}} sank", "HMS Hood sank"),
    ("en", "{{val|3.2|e=5}}", "3.2×10^5"),
    ("en", "{{convert|5|to|10|km|mi}} long", "5 to 10 km long"),
    ("en", "{{formatnum:6000}} hectolitres", "6000 hectolitres"),
    ("en", "{{quote|1=To be or not}}", "To be or not"),
    ("en", "H{{sub|2}}O", "H2O"),
    ("en", "{{chem2|CO2}}", "CO2"),
    ("en", "<chem>H2O</chem>", "H2O"),
    ("en", "{{nihongo|'''Tokyo'''|東京|Tōkyō}} is the capital", "Tokyo (東京, Tōkyō) is the capital"),
    ("en", "{{flag|France}}", "France"),
    ("en", "{{circa|1500}}", "c. 1500"),
    ("en", "{{US$|12 million}}", "US$12 million"),
    ("en", "-{zh-hans:计算机;zh-hant:電腦}-是机器", "计算机是机器"),
    ("en", "Text\n\n[[de:Haus]]", "Text"),
    ("en", "10<sup>6</sup> and 5{{e|24}}", "10^6 and 5×10^24"),
    ("en", "CO<sub>2</sub>", "CO2"),
    ("en", "1<x and y>2", "1<x and y>2"),
    ("en", "'''!Kung''' are people", "!Kung are people"),
    ("en", "<math>f''(x) = \\{|x|<1\\}</math> ok", "$f''(x) = \\{|x|<1\\}$ ok"),
    ("en", "{{convert|5|ft|6|in|cm}}", "5 ft 6 in"),
    ("en", "{{convert|3800000|sqmi|km2}}", "3800000 sq mi"),
    ("en", "{{val|1.23|0.05|u=m/s}}", "1.23±0.05 m/s"),
    ("en", "{{birth date|1809|2|12}}", "February 12, 1809"),
    ("en", "a {{nope|some words|x=1}} b", "a some words b"),
    ("en", "a {{nope|5|km}} b", "a b"),
    ("en", "{{Infobox\n|a=1\n|b=2}}\nHello", "Hello"),
    ("en", "{{unknown box|hello}}\nText", "Text"),
    ("en", "19<sup>th</sup> x<sup>2</sup> 1<sup>3</sup>/<sub>4</sub>", "19th x^2 1 3/4"),
    ("en", "log<sub>2</sub>8", "log_2 8"),
    ("en", "{{frac|1|2}} {{frac|5|1|2}}", "1/2 5 1/2"),
    ("en", "{{as of|2014|lc=y}} it", "as of 2014 it"),
    ("en", "{{PAGENAME}} is", "Thing is"),
    ("en", "x {{CURRENTYEAR}} y", "x y"),
    ("en", "{{lang-fr|mot}}", "French: mot"),
    ("en", "a {{cn|date=May}} b", "a b"),
    ("en", "{{#if:x|yes|no}}", "yes"),
    ("fr", "{{unité|5|km}}", "5 km"),
    ("fr", "{{unité|1234.5|km|2}}", "1234,5 km^2"),
    ("fr", "{{Date|1|mai|1900}}", "1er mai 1900"),
    ("fr", "{{s|XIX|e}}", "XIXe siècle"),
    ("fr", "{{nombre|1234|km}}", "1234 km"),
    ("fr", "le {{1er}} mai", "le 1er mai"),
    ("fr", "{{siècle|XIX|e}}", "XIXe siècle"),
    ("fr", "au {{-s|V|e}}", "au Ve siècle av. J.-C."),
    ("de", "{{enS|water}}", "englisch water"),
    ("de", "{{Zitat|Ich bin}}", "„Ich bin“"),
    ("de", "{{formatnum:1234.5}}", "1234,5"),
    ("de", "{{lang|en|water}} ist", "water ist"),
    ("de", "{{FRA}} ist", "Frankreich ist"),
    ("es", "{{esd|5 km}}", "5 km"),
    ("es", "{{unidad|5|km}}", "5 km"),
    ("es", "{{fecha|2|5|2010}}", "2 de mayo de 2010"),
    ("it", "{{M|5|ul=km}}", "5 km"),
    ("ru", "{{num|1234}}", "1234"),
    ("ru", "{{lang-en|water}}", "англ. water"),
    ("ru", "{{нп5|Имя|имени|en|Name}} х", "имени х"),
    ("ru", "{{s|XIX век}}", "XIX век"),
    ("ja", "{{読み仮名|東京|とうきょう}}は", "東京（とうきょう）は"),
    ("ja", "{{仮リンク|名|en|Name}}は", "名は"),
    ("ja", "{{lang|en|Tokyo}}", "Tokyo"),
    ("zh", "{{le|名|Name}}是", "名是"),
    ("ar", "{{إنج|water}}", "(بالإنجليزية: water)"),
    ("", "le {{unité|5|km}}", "le 5 km"),
    ("pt", "{{séc|XIX}}", "século XIX"),
    ("ca", "{{segle|XIX}}", "segle XIX"),
    ("ja", "{{生年月日と年齢|1950|1|2}}", "1950年1月2日"),
    ("en", ";title:def\n* {{sic|teh}} {{vr|a}}", "title: def\n- teh [sic] a"),
    ("en", "<nowiki>&lt;b&gt; {{x}}</nowiki> {{IPA-nah|x}}y", "<b> {{x}} y"),
    ("en", "{{convert|54.5|nmi|km|disp=flip}} {{convert|15700|ft3|disp=output number only}}", "54.5 nmi"),
    ("zh", "-{zh:China;zh-Hant-TW:Taiwan}- -{12:30}- -{http://x.org:80}-", "China 12:30 http://x.org:80"),
]


def clean(markup: str, language: str = "en", **more) -> str:
    return wikitext.clean(markup, frozenset({"file", "category"}), frozenset(), Wiki(language, "Thing", **more))


@pytest.mark.parametrize(("language", "markup", "text"), ROWS)
def test_templates_and_markup(language, markup, text):
    assert clean(markup, language) == text


def test_the_table_names_functions_that_exist_and_each_name_once():
    for language, table in template_data()["shown"].items():
        names = Counter(name for names in table.values() for name in names)
        assert {name for name, count in names.items() if count > 1} == set(), language
        for pattern in table:
            if pattern.startswith("@"):
                assert hasattr(template_names, pattern[1:]) or hasattr(template_numbers, pattern[1:]), pattern
        assert all(name == templates.plain_name(name) for name in names), language


def test_holes_are_counted():
    met: Counter[tuple[str, str]] = Counter()
    markup = "aged {{age|1950|1|1}} in {{CURRENTYEAR}}, {{mystery|5|km}}{{cn}} {{some words|of text}}\n\n{{Box|a=1}}"
    assert wikitext.clean(markup, frozenset(), frozenset(), Wiki("en"), met) == "aged in, of text"
    expected = {("hole", "age"), ("hole", "currentyear"), ("hole", "mystery"), ("nothing", "cn")}
    assert set(met) == expected | {("unknown shown", "some words"), ("unknown box", "box")}


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.sampled_from(["km", "ft", "kg", "sqmi", "e6km2", "°", "F"]))
def test_no_other_number_than_the_one_written_comes_out_of_convert(low, high, unit):
    for markup in (
        f"{{{{convert|{low}|{unit}}}}}",
        f"{{{{convert|{low}|to|{high}|{unit}|mi}}}}",
        f"{{{{convert|{low}|{unit}|{high}}}}}",
    ):
        digits = [part for part in clean(markup).replace("km2", "").split() if part.strip("°").isdigit()]
        assert [part.strip("°") for part in digits] == ([str(low), str(high)] if "to" in markup else [str(low)])


@given(st.integers(0, 9999), st.integers(1, 99))
def test_digits_above_and_below_the_line_never_run_together(base, other):
    assert clean(f"{base}<sup>{other}</sup>") == f"{base}^{other}"
    assert clean(f"{base}<sub>{other}</sub>") == f"{base}_{other}"
    assert clean(f"x<sub>{other}</sub>{base}") == f"x_{other} {base}"


def test_exponents_of_unicode():
    assert clean("10<sup>6</sup> m<sup>−2</sup> CO<sub>2</sub>", powers="unicode") == "10⁶ m⁻² CO₂"
    assert (superscript("n+1", "2", ""), superscript("e", "X", " "), superscript("2+", "a", "")) == ("^(n+1)", "e", "^2+")
    assert (superscript("14", " ", "C"), subscript("4", "/", "")) == ("14", "4")


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("-{zh-hans:计算机;zh-hant:電腦}-", "电脑|計算機"),
        ("-{H|zh-cn:博客;zh-tw:部落格;}-字", "字"),
        ("-{zh-cn:A;zh-tw:B}- -{text}- -{R|raw}-", "A text raw"),
        ("x -{{{!}}}-", "x -"),
    ],
)
def test_variants(markup, text):
    if "|計算機" in text:
        assert clean(markup, "zh") == "计算机"
        assert clean(markup, "zh", variant="zh-hant") == "電腦"
    else:
        assert clean(markup, "zh").startswith(text)


def test_tables_take_no_paragraph_with_them():
    markup = "Before {|x|} <math>\\{|x|\\}</math>\n\n{| class=x\n| a\n{|\n| b\n|}\n|}\nAfter.\n\n{|\n| no end\n\nLast."
    assert clean(markup) == "Before {|x|} $\\{|x|\\}$\n\nAfter.\n\nLast."


def test_links_to_other_languages_and_namespaces():
    markup = (
        "A [[:de:Haus|Haus]] and [[Re:Zero]] [[Star Trek: Enterprise]].\n\n[[de:Haus]]\n[[zh-min-nan:Chhù]]\n[[Category:X]]"
    )
    assert clean(markup) == "A Haus and Re:Zero Star Trek: Enterprise."


DUMP = """<mediawiki xml:lang="zh"><siteinfo><base>https://zh.wikipedia.org/wiki/X</base></siteinfo>{pages}</mediawiki>"""
PAGE = """<page><title>T{id}</title><ns>0</ns><id>{id}</id><revision><id>9</id><model>{model}</model><text>{text}</text>
</revision></page>"""


def test_pages_of_other_models_are_no_articles(tmp_path: Path):
    rows = [
        ("wikitext", "-{zh-hans:计;zh-hant:計}-算 {{age|1}}"),
        ("Scribunto", "return 1"),
        ("wikibase-item", "{}"),
        ("json", "{}"),
    ]
    pages = "".join(PAGE.format(id=number, model=model, text=text) for number, (model, text) in enumerate(rows))
    (tmp_path / "a.xml").write_text(DUMP.format(pages=pages), encoding="utf-8")
    source = {"type": "wikipedia", "name": "w", "paths": ["a.xml"], "variant": "zh-hant"}
    recipe = {"output": "x", "tokenizer": {"vocab_size": 300}, "sources": [source]}
    chosen = Recipe.model_validate_json(json.dumps(recipe)).sources[0]
    items = [
        item for piece in READERS["wikipedia"].pieces(chosen, tmp_path) for item in READERS["wikipedia"].read(piece, chosen)
    ]
    assert not [item for item in items if isinstance(item, SetAside)]
    (document,) = items
    assert isinstance(document, Document) and document.text == "計算"
    assert (document.metadata["holes"], document.metadata["language"]) == (1, "zh")
