"""Precision and recall of the filters on labelled data, with 95% intervals.

    python bench/quality.py FOLDER        a folder with pii/, toxicity/, spam/, translation/, qa/, gutenberg/, webtext/

Near-duplicates are measured on edited copies of its books and web texts, against the true similarity of all pairs: the corpus
and the measure of bench/minhash.py.

The classifiers that ship were trained on the labelled files themselves, so their figures here are of 10-fold cross-validation:
each text is judged by a classifier that did not see it. `--trained` judges with the shipped ones: for files they never saw.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import sysconfig
import tempfile
import zipfile
from collections import Counter
from itertools import groupby
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import xxhash

from bench import minhash
from data_prep import extract
from data_prep.document import Document, Drop, read_documents
from data_prep.filters import content, language, personal_data
from data_prep.filters.linear_text import LinearText
from data_prep.recipe import Build, Recipe
from data_prep.stage import Runner
from tools import train_classifiers

ENTITIES = {
    "EMAIL_ADDRESS": "email", "IP_ADDRESS": "ip", "CREDIT_CARD": "card", "IBAN_CODE": "iban", "US_SSN": "national_id",
    "PHONE_NUMBER": "phone",
}  # fmt: skip
MACRO = {"nob": "no", "nno": "no", "nn": "no", "nb": "no"}
"""Norwegian, whose two written forms the model tells apart and the file names do not."""


def wilson(hits: int, total: int) -> str:
    """Share with the 95% interval of Wilson 1927."""
    if not total:
        return "      -"
    p, z = hits / total, 1.96
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(p * (1 - p) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return f"{p:.4f} ({middle - half:.3f}-{middle + half:.3f}, n={total})"


def measure_personal_data(file: Path) -> list[str]:
    """Span by span; a finding counts when it overlaps a span of its kind."""
    settings = personal_data.PersonalData(type="personal_data", private_addresses=True)
    hit, gold, found, right = Counter(), Counter(), Counter(), Counter()
    for record in json.loads(file.read_text(encoding="utf-8")):
        spans = [(s["start_position"], s["end_position"], ENTITIES.get(s["entity_type"])) for s in record["spans"]]
        findings = personal_data.find(record["full_text"], settings)
        for start, end, kind in spans:
            if kind:
                gold[kind] += 1
                ok = any(f.kind == kind and f.start < end and start < f.end for f in findings)
                hit[kind] += ok
                if not ok:
                    print(f"  missed {kind}: {record['full_text'][start:end]!r}", file=sys.stderr)
        for f in findings:
            found[f.kind] += 1
            ok = any(kind == f.kind and f.start < end and start < f.end for start, end, kind in spans)
            right[f.kind] += ok
            if not ok:
                print(f"  wrong {f.kind}: {record['full_text'][f.start : f.end]!r} {spans}", file=sys.stderr)
    return [
        f"personal data, {kind:<12} precision {wilson(right[kind], found[kind])}   recall {wilson(hit[kind], gold[kind])}"
        for kind in personal_data.KINDS
    ]


def measure_classifier(name: str, file: Path, threshold: float, trained: bool) -> list[str]:
    """Precision, recall, F1 of one classifier; the interval of F1 by 1,000 bootstraps."""
    texts, labels = train_classifiers.READ[name](file)
    scores = LinearText.load(name).scores(texts) if trained else train_classifiers.cross_validate(name, texts, labels)
    found = scores >= threshold
    rng = np.random.default_rng(0)
    picks = [rng.integers(0, len(labels), len(labels)) for _ in range(1000)]
    low, high = np.quantile([_f1(labels[pick], found[pick]) for pick in picks], (0.025, 0.975))
    both = int((found & (labels == 1)).sum())
    how = "shipped classifier" if trained else "10-fold cross-validation"
    return [
        f"{name}, {how}: precision {wilson(both, int(found.sum()))}   recall {wilson(both, int(labels.sum()))}   "
        f"F1 {_f1(labels, found):.4f} ({low:.3f}-{high:.3f})"
    ]


def _f1(labels: np.ndarray, found: np.ndarray) -> float:
    both = int((found & (labels == 1)).sum())
    return 2 * both / max(1, int(found.sum()) + int(labels.sum()))


def measure_language(folder: Path) -> list[str]:
    """Sentences over 100 characters of the Universal Declaration of Human Rights, and of XQuAD's paragraphs."""
    right, total = Counter(), Counter()
    with zipfile.ZipFile(folder / "translation" / "udhr2.zip") as archive:
        for name in sorted(archive.namelist()):
            if not name.endswith(".txt"):
                continue
            code = _known(Path(name).stem)
            if code is None:
                continue
            text = archive.read(name).decode("utf-8", "replace")
            for paragraph in text.split("\n"):
                if len(paragraph) > 100:
                    total[code] += 1
                    right[code] += _same(language.detect(paragraph)[0], code)
    worst = sorted(total, key=lambda code: right[code] / total[code])[:8]
    lines = [f"language, UDHR, {len(total)} languages: accuracy {wilson(sum(right.values()), sum(total.values()))}"]
    lines.append("          weakest: " + ", ".join(f"{code} {right[code]}/{total[code]}" for code in worst))
    right, total = Counter(), Counter()
    for code in ("en", "es"):
        data = json.loads((folder / "qa" / f"xquad.{code}.json").read_text(encoding="utf-8"))["data"]
        for sentence in (s for d in data for p in d["paragraphs"] for s in re.split(r"(?<=[.!?]) ", p["context"])):
            if len(sentence) > 100:
                total[code] += 1
                right[code] += language.detect(sentence)[0] == code
    lines += [f"language, XQuAD sentences, {code}: accuracy {wilson(right[code], total[code])}" for code in total]
    return lines


def extracted(folder: Path, out: Path) -> list[Document]:
    """Documents of the folder's texts, as a build reads them."""
    kinds = {
        "speeches": "plaintext",
        "papers": "papers",
        "gutenberg": "gutenberg",
        "wikipedia": "wikipedia",
        "webtext": "jsonl",
    }
    sources = [{"type": kind, "name": name, "paths": [str(folder / name)]} for name, kind in kinds.items()]
    raw = {"output": str(out), "sources": sources, "tokenizer": {"vocab_size": 300}}
    with Runner(1) as runner:
        parts = extract.run(Build(recipe=Recipe.model_validate(raw), base=folder), runner, out)
    return [document for part in parts.files for document in read_documents(part)]


def measure_content(folder: Path) -> list[str]:
    """Program files of the Python installation against the folder's texts; the kind is that of the file's name or folder."""
    place = Path(sysconfig.get_paths()["purelib"])
    rules = content.Content(type="content")
    found = {}
    for suffix in ("py", "h", "js", "css", "cu", "cpp"):
        files = sorted(place.rglob(f"*.{suffix}"), key=lambda file: xxhash.xxh3_64_intdigest(bytes(file.relative_to(place))))[
            :200
        ]
        found[f".{suffix} files"] = (True, [file.read_text(encoding="utf-8", errors="replace") for file in files])
    with tempfile.TemporaryDirectory() as out:
        texts = extracted(folder, Path(out))
    for name, source in groupby(sorted(texts, key=lambda document: document.source), key=lambda document: document.source):
        pieces = [d.text[start : start + 5000] for d in source for start in range(0, len(d.text), 5000)]
        found[name] = (False, pieces[:1000])
    lines = []
    for name, (is_code, texts) in found.items():
        texts = [text for text in texts if len(text) >= 200]
        verdicts = [content.apply(Document("", text, ""), rules) for text in texts]
        right = sum(isinstance(verdict, Drop) == is_code for verdict in verdicts)
        lines.append(f"content, {name}: {'found' if is_code else 'kept'} {wilson(right, len(texts))}")
    return lines


def measure_near_duplicates(folder: Path) -> list[str]:
    """Pairs of 4,000 documents, half of them edited copies, at a Jaccard similarity of 0.8."""
    files = [*sorted((folder / "gutenberg").rglob("*.txt")), *sorted((folder / "webtext").glob("*.jsonl"))]
    texts = minhash.make_corpus(files, 4000, seed=1)
    with tempfile.TemporaryDirectory() as place:
        starts = minhash.prepare(texts, Path(place))
        minhash.ours(Path(place), Path(place) / "out", workers=1)
        links = minhash.our_links(Path(place) / "out", starts)
    found = minhash.quality(*links, minhash.similar_pairs(texts), len(texts))
    return [f"near-duplicate pairs: precision {found['precision']}   recall {found['recall']}"]


ISO = (
    "eng:en spa:es fra:fr deu:de ita:it por:pt nld:nl swe:sv dan:da nob:no fin:fi pol:pl ces:cs slk:sk hun:hu "
    "ron:ro bul:bg rus:ru ukr:uk ell:el tur:tr heb:he arb:ar pes:fa hin:hi ben:bn tam:ta tel:te kan:kn mal:ml "
    "mar:mr guj:gu urd:ur vie:vi tha:th kor:ko jpn:ja cmn:zh ind:id cat:ca eus:eu glg:gl ekk:et lvs:lv lit:lt "
    "slv:sl hrv:hr isl:is gle:ga cym:cy hye:hy kat:ka mkd:mk swh:sw epo:eo nep:ne sin:si khm:km mya:my afr:af "
    "bel:be kaz:kk pan:pa "
)
CODES = dict(pair.split(":") for pair in ISO.split())
VARIANTS = ("1996", "2006", "hans", "latn", "simp")
"""Endings of the names of files that are in a language's usual spelling."""


def _known(stem: str) -> str | None:
    """The model's code for a file named by ISO 639-3, for the larger languages that lid.176 knows; others are left out."""
    language_code, *variant = stem.split("_")
    return CODES.get(language_code) if not variant or variant[0] in VARIANTS else None


def _same(found: str, code: str) -> bool:
    return MACRO.get(found, found) == code


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trained", action="store_true", help="judge with the shipped classifiers")
    options = parser.parse_args()
    for file in sorted((options.folder / "pii").glob("*.json")):
        print(*measure_personal_data(file), sep="\n")
    for file in sorted((options.folder / "spam").iterdir()):
        print(*measure_classifier("spam", file, 0.35, options.trained), sep="\n")
    for file in sorted((options.folder / "toxicity").glob("*.csv")):
        print(*measure_classifier("toxicity", file, 0.5, options.trained), sep="\n")
    print(*measure_language(options.folder), sep="\n")
    print(*measure_content(options.folder), sep="\n")
    print(*measure_near_duplicates(options.folder), sep="\n")


if __name__ == "__main__":
    main()
