"""Microseconds of processor time for a licence text met for the first time, in this checkout and in another:

python bench/licences.py [--beside CHECKOUT] [--repeats 200]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

TEXTS = {
    "SPDX id": "Apache-2.0",
    "name": "Creative Commons Attribution-NonCommercial 4.0 International",
    "unknown": "our own terms of the year",
    "unknown sentence": "Copyright by the author and all rights reserved see the notice on the page",
}
MEASURE = """
import json, sys, time
try:
    from data_prep.sources.licences import spdx
except ImportError:
    from data_prep.sources.signals import spdx
spdx("warm")
times = {}
for name, text in json.loads(sys.argv[1]).items():
    times[name] = []
    for number in range(int(sys.argv[2])):
        unseen = f"{text} {number:04d}" if name.startswith("unknown") else text + " " * number
        begun = time.process_time()
        spdx(unseen)
        times[name].append((time.process_time() - begun) * 1e6)
print(json.dumps(times))
"""


def measure(checkout: Path, repeats: int) -> dict[str, list[float]]:
    """Microseconds of each repeat by kind of text, in a process of its own that runs the code of `checkout`."""
    command = [sys.executable, "-c", MEASURE, json.dumps(TEXTS), str(repeats)]
    return json.loads(subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beside", type=Path, help="another checkout, measured with the same texts")
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    here = measure(Path(__file__).resolve().parent.parent, options.repeats)
    there = measure(options.beside, options.repeats) if options.beside else {}
    for name in TEXTS:
        ours = statistics.median(here[name])
        line = f"{name:18} {ours:10.1f} us"
        if there:
            theirs = statistics.median(there[name])
            line += f"   beside {theirs:10.1f} us   ratio {theirs / ours:8.1f}"
        print(line)


if __name__ == "__main__":
    main()
