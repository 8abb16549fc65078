"""report.html: what is in the corpus, as one self-contained page for a person."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from data_prep import facts, losses, packing
from data_prep.shards import TokenShards
from data_prep.stage import partial_name

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem }
h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; width: 100% }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid #eee }
th { border-bottom: 2px solid #bbb }
.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #4c78a8; height: .7rem; display: inline-block }
code { background: #f4f4f4; padding: 0 .2rem; word-break: break-all }
.big { display: flex; gap: 2rem; flex-wrap: wrap }
.big b { display: block; font-size: 1.5rem }
.warn { background: #fff3cd; padding: .5rem 1rem }
.sample { color: #555; font-size: .85rem }
img { max-width: 100% }
"""


def write(path: Path, summary: dict[str, Any]) -> None:
    """Write the page for a corpus, from the summary of its build and the histories beside its shards."""
    sections = [
        _headline(summary),
        _sources(summary),
        facts.section(summary),
        _set_aside(summary),
        _lengths(summary),
        _languages(summary),
        _rights(summary),
        _personal(summary),
        _drops(summary),
        _diversity(summary),
        _tokenizer(summary),
        _shards(summary),
        _plans(summary),
    ]
    title = f"Corpus report: {Path(summary['output']).name}"
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{escape(title)}</h1>{''.join(sections)}</html>\n"
    )
    partial = partial_name(path)
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)


def _manifests(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {split: manifest for split, manifest in summary["shards"].items() if manifest}


def _headline(summary: dict[str, Any]) -> str:
    manifests = _manifests(summary).values()
    tokens, documents, size = (sum(m[key] for m in manifests) for key in ("tokens", "documents", "text_bytes"))
    figures = {
        "tokens": f"{tokens:,}",
        "documents kept": f"{documents:,}",
        "documents dropped": f"{sum(summary['dropped'].values()):,}",
        "text": _bytes(size),
        "bytes per token": f"{size / (tokens - documents):.2f}" if tokens > documents else "-",
    }
    return "<div class=big>" + "".join(f"<div><b>{value}</b>{name}</div>" for name, value in figures.items()) + "</div>"


def _set_aside(summary: dict[str, Any]) -> str:
    if not summary["set_aside_count"]:
        return ""
    rows = []
    for reason, places in losses.group_set_aside(summary["set_aside"])[:50]:
        more = f"<br>and {len(places) - 3:,} more" if len(places) > 3 else ""
        rows.append((escape(reason), f"{len(places):,}", "<br>".join(escape(place) for place in places[:3]) + more))
    return (
        f"<h2>Set aside</h2><p class=warn>{summary['set_aside_count']:,} inputs could not be read; the rest went on.</p>"
        + _table(("reason", "inputs", "the first of them"), rows, numbers=(1,))
    )


def _sources(summary: dict[str, Any]) -> str:
    none = {"documents": 0, "tokens": 0, "text_bytes": 0}
    totals: dict[str, dict[str, int]] = {source["name"]: dict(none) for source in summary["sources"]}
    for manifest in _manifests(summary).values():
        for source, counts in manifest["sources"].items():
            row = totals.setdefault(source, dict(none))
            for key, value in counts.items():
                row[key] += value
    everything = sum(row["tokens"] for row in totals.values())
    licences = {source["name"]: source["licence"] or "per document or unknown" for source in summary["sources"]}
    rows = []
    for name, row in sorted(totals.items(), key=lambda item: -item[1]["tokens"]):
        share = row["tokens"] / everything
        bar = f"<span class=bar style='width:{max(1, share * 120):.0f}px'></span> {share:.1%}"
        read = summary["extracted_from"].get(name, 0)
        counts = [f"{read:,}", f"{row['documents']:,}", f"{row['tokens']:,}", _bytes(row["text_bytes"])]
        rows.append((escape(name), *counts, bar, escape(licences.get(name, ""))))
    head = ("source", "documents read", "kept", "tokens", "text", "share of tokens", "licence")
    return "<h2>Sources</h2>" + _table(head, rows, numbers=(1, 2, 3, 4))


def _lengths(summary: dict[str, Any]) -> str:
    import matplotlib

    matplotlib.use("Agg")
    import numpy as np
    from matplotlib import pyplot

    parts = []
    for split in _manifests(summary):
        folder = Path(summary["output"]) / "shards" / split
        for shard, _, _ in TokenShards.open(folder).shard_spans():
            name = shard.replace("shard-", "documents-").replace(".tokens", ".parquet")
            parts.append(pq.read_table(folder / name, columns=["tokens"])["tokens"].to_numpy())
    lengths = np.concatenate(parts)
    top = max(2, int(lengths.max()))
    bins = np.unique(np.geomspace(1, top + 1, 40).astype(np.int64))
    figure, axes = pyplot.subplots(figsize=(8, 2.6), constrained_layout=True)
    axes.hist(lengths, bins=bins, color="#4c78a8")
    axes.set(xscale="log", xlabel="tokens in a document", ylabel="documents")
    for window in (1024, 2048, 4096):
        if window < top:
            axes.axvline(window, color="#e45756", linewidth=0.8)
            axes.annotate(str(window), (window, axes.get_ylim()[1]), fontsize=7, color="#e45756")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    pyplot.close(figure)
    image = base64.b64encode(buffer.getvalue()).decode()
    quantiles = ", ".join(f"{q:.0%}: {int(np.quantile(lengths, q)):,}" for q in (0.05, 0.25, 0.5, 0.75, 0.95))
    return (
        f"<h2>Document lengths</h2><img alt='histogram of document lengths in tokens' src='data:image/png;base64,{image}'>"
        f"<p>Quantiles in tokens: {quantiles}; longest {int(lengths.max()):,}. Red: usual context windows.</p>"
    )


def _drops(summary: dict[str, Any]) -> str:
    if not summary["dropped"]:
        return "<h2>Dropped</h2><p>Nothing was dropped.</p>"
    lost = losses.table(summary["extracted_from"], summary["dropped_from"])
    rows = [(escape(source), escape(reason), f"{count:,}", f"{share:.1%}") for source, reason, count, share in lost]
    samples = "".join(
        f"<p class=sample><b>{escape(reason)}</b> <code>{escape(s['id'])}</code> {escape(s['detail'])}<br>"
        f"{escape(s['text'])}</p>"
        for reason, shown in sorted(summary["drop_samples"].items())
        for s in shown
    )
    head = ("source", "reason", "documents", "share of those read")
    where = "Every dropped document is kept beside its part, in <code>*.dropped.jsonl.zst</code>, with its reason."
    return f"<h2>Dropped</h2>{_table(head, rows, numbers=(2, 3))}<p>{where}</p>{samples}"


def _languages(summary: dict[str, Any]) -> str:
    survey = summary["survey"]
    languages, domains = _bars(survey["language"], "language"), _bars(survey["domain"], "domain")
    rest_on = escape(facts.languages_are(summary))
    return f"<h2>Languages</h2><p>{rest_on}</p>{languages}<h2>Domains</h2>{domains}<p>Documents by the host of their URL.</p>"


def _rights(summary: dict[str, Any]) -> str:
    survey = summary["survey"]
    signals = _bars(survey["opt_out"], "signal") if survey["opt_out"] else "<p>None was found among the documents kept.</p>"
    return f"<h2>Licences</h2>{_bars(survey['licence'], 'licence')}<h2>Opt-out signals in what is kept</h2>{signals}"


def _personal(summary: dict[str, Any]) -> str:
    survey = summary["survey"]
    found = survey["personal_data"]
    personal = _bars(found, "kind", "findings") if found else "<p>None was found, or it was not looked for.</p>"
    toxic = _bars(dict(sorted(survey["toxicity"].items())), "share of toxic segments")
    return f"<h2>Personal data</h2>{personal}<h2>Toxicity of what is kept</h2>{toxic}"


def _diversity(summary: dict[str, Any]) -> str:
    survey = summary["survey"]
    documents = max(1, sum(survey["topic"].values()))
    shares = [count / documents for count in survey["domain"].values()]
    words = max(1, survey["words"])
    rows = [
        ("words", f"{survey['words']:,}"),
        ("distinct words (estimate)", f"{survey['distinct_words']:,}"),
        ("the ten most frequent words", f"{sum(list(survey['frequent_words'].values())[:10]) / words:.1%} of all"),
        ("concentration of domains (Herfindahl)", f"{sum(share * share for share in shares):.3f} (1: all from one)"),
    ]
    frequent = ", ".join(escape(word) for word in list(survey["frequent_words"])[:60])
    return (
        "<h2>Groups that documents name</h2>" + _bars(survey["group"], "group", total=documents)
        + "<h2>Topics</h2>" + _bars(survey["topic"], "topic")
        + "<h2>Vocabulary and concentration</h2>" + _table(("", ""), rows)
        + f"<p class=sample>Most frequent: {frequent}</p>"
        "<p><b>Method and limits.</b> A document names a group when it holds one of a short list of English words; its topic "
        "is the list with most words in it, two at least. Lists (data_prep/survey.py) miss other languages, names, pronouns of "
        "people quoted, and meaning: they show how often groups are named, not how they are spoken of. Domains are hosts, not "
        "owners. Use the figures to compare corpora and to find what is missing, not as a certificate.</p>"
    )  # fmt: skip


def _bars(counts: dict[str, int], title: str, unit: str = "documents", total: int | None = None) -> str:
    """A table of counts with bars, the 15 largest, the rest added up."""
    everything = total or max(1, sum(counts.values()))
    shown = list(counts.items())[:15]
    rest = sum(counts.values()) - sum(count for _, count in shown)
    rows = []
    for name, count in [*shown, *([(f"{len(counts) - 15} others", rest)] if len(counts) > 15 else [])]:
        bar = f"<span class=bar style='width:{max(1, min(1, count / everything) * 160):.0f}px'></span> {count / everything:.1%}"
        rows.append((escape(name), f"{count:,}", bar))
    return _table((title, unit, "share"), rows, numbers=(1,))


def _tokenizer(summary: dict[str, Any]) -> str:
    made = summary["tokenizer"]
    rows = [
        ("origin", "byte-level BPE trained on this corpus" if made["trained"] else "existing tokenizer, copied"),
        ("vocabulary", f"{made['vocab_size']:,} ids"),
        ("end of document", f"<code>{escape(made['eod_token'])}</code> (id {made['eod_id']})"),
        (
            "engine",
            "gigatoken, ids proven equal to Hugging Face's on samples"
            if not made["slow_because"]
            else f"Hugging Face tokenizers: {escape(made['slow_because'])}",
        ),
        ("fingerprint", f"<code>{made['fingerprint']}</code>"),
    ]
    if not made.get("of_these_documents", True):
        rows.insert(1, ("trained when", f"the corpus had {made['of_documents']:,} documents; kept as it grew"))
    return "<h2>Tokenizer</h2>" + _table(("", ""), rows)


def _shards(summary: dict[str, Any]) -> str:
    rows = [
        (split, f"{m['shards']:,}", f"{m['documents']:,}", f"{m['tokens']:,}", f"<code>{m['fingerprint']}</code>")
        for split, m in _manifests(summary).items()
    ]
    return "<h2>Shards</h2>" + _table(("split", "shards", "documents", "tokens", "fingerprint"), rows, numbers=(1, 2, 3))


def _plans(summary: dict[str, Any]) -> str:
    rows = [(split, *cells) for split, plans in summary["plans"].items() for cells in plans]
    if not rows:
        return ""
    note = "Documents in context windows. A document longer than a window is split over several; none is shortened or dropped."
    return f"<h2>Packing</h2><p>{note}</p>" + _table(("split", *packing.COLUMNS), rows, numbers=(1, *range(3, 9)))


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]], numbers: tuple[int, ...] = ()) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        marked = (f"<{tag}{' class=n' if i in numbers else ''}>{cell}</{tag}>" for i, cell in enumerate(cells))
        return f"<tr>{''.join(marked)}</tr>"

    return f"<table>{row(head, 'th') if any(head) else ''}{''.join(row(cells, 'td') for cells in rows)}</table>"


def _bytes(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
