"""Runs one filter over documents, with the code of the folder that PYTHONPATH names: bench/filters.py and bench/language.py
start it for this build and for an earlier one.

    PYTHONPATH=TREE python bench/filter_worker.py FILTER SETTINGS_JSON

Reads paths of JSON Lines files (id, text) from its input, one a line; answers each with one line of JSON: processor seconds,
peak memory in bytes (and before the first verdict), and each document's verdict.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import zlib


def main() -> None:
    sys.path.pop(0)  # this script's folder
    import orjson
    from pydantic import TypeAdapter

    from data_prep.document import Document, Drop
    from data_prep.filters import FILTERS, Filter

    filter_type, settings = sys.argv[1:]
    step = TypeAdapter(Filter).validate_json(json.dumps({"type": filter_type, **json.loads(settings)}))
    apply = FILTERS[filter_type]
    for text in ("Models are loaded once, at the first text.", "other : ndarray", "numpy mill"):
        apply(Document("", text, ""), step)  # the second and third need a second opinion on their language
    for path in map(str.strip, sys.stdin):
        with open(path, "rb") as lines:
            documents = [Document(record["id"], record["text"], "bench") for record in map(orjson.loads, lines)]
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        start = time.process_time()
        results = [apply(document, step) for document in documents]
        seconds = time.process_time() - start
        verdicts = []
        for document, result in zip(documents, results, strict=True):
            if isinstance(result, Drop):
                verdicts.append(
                    {"drop": result.reason, "detail": result.detail, "text": None, "scores": None, "language": None}
                )
                continue
            text = None if result.text == document.text else zlib.crc32(result.text.encode("utf-8", "surrogatepass"))
            scores = {**result.metadata.get("scores", {}), **result.metadata.get("personal_data", {})}
            language = result.metadata.get("language")
            verdicts.append({"drop": None, "detail": "", "text": text, "scores": scores, "language": language})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "loaded_bytes": loaded, "peak_bytes": peak, "verdicts": verdicts}), flush=True)


if __name__ == "__main__":
    main()
