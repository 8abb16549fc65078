"""What is in the corpus, counted part by part: languages, domains, licences, signals, groups, topics, vocabulary."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import xxhash

from data_prep.document import Document, read_documents
from data_prep.stage import Parts, Runner, Task, write_json

GROUPS = {
    "women": "she|her|hers|woman|women|girl|girls|mother|wife|daughter|sister",
    "men": "he|him|his|man|men|boy|boys|father|husband|son|brother",
    "Christian": "christian|christians|christianity|church|jesus",
    "Muslim": "muslim|muslims|islam|islamic|mosque",
    "Jewish": "jew|jews|jewish|judaism|synagogue",
    "Hindu": "hindu|hindus|hinduism",
    "Buddhist": "buddhist|buddhists|buddhism",
    "Africa": "africa|african|africans|nigeria|kenya|ethiopia",
    "Asia": "asia|asian|asians|china|chinese|india|indian|japan|japanese",
    "Europe": "europe|european|europeans|france|french|germany|german|britain|british|english",
    "Latin America": "latin america|mexico|mexican|brazil|brazilian|argentina|colombia",
    "North America": "american|americans|united states|canada|canadian",
    # "gay" and "queer" alone meant merry and odd until the 1950s: only in phrases
    "LGBT": "gays|gay (?:and|or) lesbian|lesbian (?:and|or) gay|gay (?:men|man|people|rights|marriage|couples?|community|pride)"
    "|(?:openly|is|are|being|was) gay(?= *[.,;]| because| in)|lesbians?|bisexuals?|transgender|transsexuals?|homosexuals?"
    "|homosexuality|lgbt|lgbtq|lgbtqia|lgbtq\\+|queer (?:people|theory|community|studies)",
    # "blind" and "deaf" are used of faith, love and ears that will not hear
    "disability": "disabled (?:people|persons?|children|veterans|man|woman)|disability|disabilities|wheelchairs?|deafness"
    "|deaf (?:people|persons?|children|community|man|woman)|blindness|blind (?:people|persons?|children|man|men|woman|girl|boy)"
    "|(?:the|born|went|was|is|became) (?:blind|deaf)(?= *[.,;]| and)|autism|autistic",
    "old age": "elderly|old age|pensioner|pensioners|senior citizens",
}
TOPICS = {
    "science": "science|theory|experiment|physics|chemistry|biology|research|equation|species|energy",
    "technology": "software|computer|internet|data|algorithm|program|code|device|engineering|machine",
    "politics": "government|president|congress|parliament|election|policy|minister|party|nation|vote",
    "law": "court|law|legal|judge|rights|article|treaty|constitution|act|justice",
    "economy": "market|economy|business|company|money|trade|bank|price|tax|industry",
    "health": "health|disease|patient|doctor|medical|hospital|drug|treatment|cancer|virus",
    "history": "century|war|empire|king|ancient|army|battle|revolution|medieval|emperor",
    "arts": "art|music|film|novel|poem|painting|theatre|album|song|poet",
    "sport": "game|team|season|player|league|football|match|cup|olympic|coach",
    "religion": "god|church|prayer|religion|holy|faith|bible|soul|spirit|priest",
    "everyday life": "home|family|food|friend|house|dinner|school|children|love|garden",
}
SKETCH = 2048
"""Smallest word hashes kept: the number of distinct words is estimated from them within about 2%."""
TOP = 200
_GROUPS = {name: re.compile(rf"\b(?:{words})\b", re.IGNORECASE) for name, words in GROUPS.items()}
_TOPICS = {name: frozenset(words.split("|")) for name, words in TOPICS.items()}
_WORD = re.compile(r"[^\W\d_]+")


def run(runner: Runner, folder: Path, parts: Parts) -> dict[str, Any]:
    """Counts over all documents of `parts`: see `work`; with `distinct_words`, an estimate."""
    results = runner.run(folder, "survey", {"version": 1}, parts.tasks(lambda part: part), work)
    total: dict[str, Any] = {name: Counter() for name in results[0]["counts"]} if results else {}
    smallest: set[int] = set()
    for result in results:
        smallest |= set(result["smallest_hashes"])
        for name, counts in result["counts"].items():
            total[name].update(counts)
    kept = sorted(smallest)[:SKETCH]
    distinct = len(kept) if len(kept) < SKETCH else int((SKETCH - 1) * 2**64 / kept[-1])
    words = sum(result["words"] for result in results)
    return {
        **{name: dict(counter.most_common(TOP)) for name, counter in total.items()},
        "words": words,
        "distinct_words": distinct,
    }


def work(task: Task, folder: Path) -> dict[str, Any]:
    """Count one part: documents by language, domain, licence, opt-out signal, group named, topic; findings of personal data;
    documents by tenth of the toxicity score; words, and a sketch of the distinct ones (Bar-Yossef et al. 2002)."""
    counts = {
        name: Counter()
        for name in (
            "language",
            "domain",
            "licence",
            "opt_out",
            "personal_data",
            "toxicity",
            "group",
            "topic",
            "frequent_words",
        )
    }
    hashes: set[int] = set()
    total = 0
    for document in read_documents(task.arguments):
        _count_metadata(document, counts)
        words = list(map(str.lower, _WORD.findall(document.text)))
        total += len(words)
        frequencies = Counter(words)
        for name, pattern in _GROUPS.items():
            if pattern.search(document.text):
                counts["group"][name] += 1
        scores = {name: sum(frequencies[word] for word in keys) for name, keys in _TOPICS.items()}
        best = max(scores, key=scores.__getitem__)
        counts["topic"][best if scores[best] >= 2 else "none of these"] += 1
        counts["frequent_words"].update(frequencies)
        hashes.update(xxhash.xxh3_64_intdigest(word.encode("utf-8", "surrogatepass")) for word in frequencies)
        if len(hashes) > 16 * SKETCH:
            hashes = set(sorted(hashes)[:SKETCH])
        if len(counts["frequent_words"]) > 200_000:  # rare words go: only the most frequent are shown
            counts["frequent_words"] = Counter(dict(counts["frequent_words"].most_common(20_000)))
    result = {
        "counts": {name: dict(counter.most_common(10 * TOP)) for name, counter in counts.items()},
        "words": total,
        "smallest_hashes": sorted(hashes)[:SKETCH],
    }
    write_json(folder / f"{task.name}.json", result)
    return {"outputs": [f"{task.name}.json"], **result}


def _language(metadata: dict[str, Any]) -> str:
    """Return the language found in the text, else the one declared, else why there is none."""
    found = metadata.get("language_found") or metadata.get("language")
    if found == "und":
        return "no words to judge"
    return str(found or "not declared, and no language filter in the recipe looked")


def _count_metadata(document: Document, counts: dict[str, Counter]) -> None:
    metadata = document.metadata
    counts["language"][_language(metadata)] += 1
    counts["licence"][str(metadata.get("licence") or "unknown")] += 1
    url = metadata.get("url")
    try:
        domain = urlsplit(url).hostname if isinstance(url, str) else None
    except ValueError:
        domain = None
    counts["domain"][domain or "no URL"] += 1
    signals = metadata.get("opt_out")
    counts["opt_out"].update(signals if isinstance(signals, list) else [])
    found = metadata.get("personal_data")
    counts["personal_data"].update(found if isinstance(found, dict) else {})
    scores = metadata.get("scores")
    score = scores.get("toxicity") if isinstance(scores, dict) else None
    counts["toxicity"]["not measured" if score is None else f"{min(0.9, int(score * 10) / 10):.1f} and more"] += 1
