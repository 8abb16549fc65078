"""Runs one filter over documents, with the code of the folder it is started in: bench/filters.py and bench/language.py start it
in this build and in an earlier one.

    PYTHONPATH=TREE python bench/filter_worker.py FILTER SETTINGS_JSON DOCUMENTS.jsonl VERDICTS.jsonl

Prints one JSON object: characters, bytes, processor seconds, peak memory in bytes.
"""

from __future__ import annotations

import json
import resource
import sys
import time


def main() -> None:
    filter_type, settings, source, target = sys.argv[1:]
    from pydantic import TypeAdapter

    from data_prep.document import Document, Drop
    from data_prep.filters import FILTERS, Filter

    step = TypeAdapter(Filter).validate_json(json.dumps({"type": filter_type, **json.loads(settings)}))
    apply = FILTERS[filter_type]
    apply(Document("", "Warm up: models are loaded once, at the first text.", ""), step)
    seconds, characters, size = 0.0, 0, 0
    with open(source, encoding="utf-8") as lines, open(target, "w", encoding="utf-8") as out:
        for line in lines:
            record = json.loads(line)
            document = Document(record["id"], record["text"], record["source"], record.get("metadata", {}))
            start = time.process_time()
            verdict = apply(document, step)
            seconds += time.process_time() - start
            characters += len(document.text)
            size += len(document.text.encode("utf-8", "surrogatepass"))
            if isinstance(verdict, Drop):
                out.write(json.dumps({"drop": verdict.reason, "detail": verdict.detail}) + "\n")
            else:
                text = None if verdict.text == document.text else verdict.text
                out.write(json.dumps({"drop": None, "metadata": verdict.metadata, "text": text}) + "\n")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"characters": characters, "bytes": size, "seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
