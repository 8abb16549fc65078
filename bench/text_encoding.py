"""How often the encoding of a legacy text file is found: python bench/text_encoding.py udhr2.zip [--excerpt 300]

The labelled set: the Universal Declaration of Human Rights in the languages below (the archive of NLTK's `udhr2` corpus),
each written in the encodings that its files used to have, whole and as an excerpt. A file is right when the text that comes
out is the text that went in. Contestants in the same run: moenda, moenda before encodings were detected (UTF-8, else
Windows-1252), and the detectors as they come.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import charset_normalizer
from resiliparse.parse.encoding import detect_encoding

from data_prep.sources import text_encoding
from data_prep.sources.files import Unreadable

WEST = ["cp1252", "iso8859-15", "mac_roman", "cp850"]
CENTRAL = ["cp1250", "iso8859-2", "cp852"]
CYRILLIC = ["cp1251", "koi8-r", "iso8859-5", "cp866", "mac_cyrillic"]
USED = {
    "deu": WEST, "fra": WEST, "spa": WEST, "por_PT": WEST, "ita": WEST, "swe": WEST, "dan": WEST, "fin": WEST, "isl": WEST[:2],
    "nld": WEST, "nob": WEST, "cat": WEST[:2], "gle": WEST[:2],
    "eng": ["cp1252", "utf-16-le", "utf-16-be", "utf-16"],
    "pol": CENTRAL, "ces": CENTRAL, "hun": CENTRAL, "slk": CENTRAL, "slv": CENTRAL, "hrv": CENTRAL, "ron_1993": CENTRAL[:2],
    "rus": [*CYRILLIC, "utf-16-le"], "bul": CYRILLIC[:1],
    "ukr": ["cp1251", "koi8-u"], "bel": ["cp1251"], "srp_cyrl": ["cp1251"],
    "mkd": ["cp1251"], "ell_monotonic": ["cp1253", "iso8859-7"], "tur": ["cp1254", "iso8859-9"], "heb": ["cp1255", "iso8859-8"],
    "arb": ["cp1256", "iso8859-6"], "pes_1": ["cp1256"], "lit": ["cp1257", "iso8859-13"], "lav": ["cp1257", "iso8859-13"],
    "est": ["cp1257", "iso8859-15"], "vie": ["cp1258"], "tha": ["cp874", "tis-620"], "mlt": ["iso8859-3"], "epo": ["iso8859-3"],
    "jpn": ["shift_jis", "cp932", "euc_jp", "iso2022_jp", "utf-16-le"], "kor": ["euc_kr", "cp949", "iso2022_kr"],
    "cmn_hans": ["gb2312", "gbk", "gb18030", "hz"], "cmn_hant": ["big5", "cp950", "big5hkscs"],
}  # fmt: skip
"""Languages of the archive -> the encodings that their files had."""


def labelled(archive: zipfile.ZipFile, excerpt: int | None) -> Iterator[tuple[str, str, bytes, str]]:
    """(language, encoding, bytes, text) of every file that the encoding can write; `excerpt` characters from the middle."""
    for language, used in USED.items():
        text = archive.read(f"udhr2/{language}.txt").decode("utf-8").replace("\ufeff", "")
        if excerpt:
            start = len(text) // 2
            text = text[start : start + excerpt]
        for encoding in used:
            # what the old character set does not have was written otherwise, or not at all
            raw = text.encode(encoding, "ignore")
            kept = raw.decode(encoding)
            if len(kept) > 0.9 * len(text) and not kept.isascii():
                yield language, encoding, raw, kept


def moenda(raw: bytes) -> tuple[str, bool]:
    decoded = text_encoding.decode(raw)
    return decoded.text, decoded.assumed


def before(raw: bytes) -> tuple[str, bool]:
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return raw.decode(encoding), False
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1"), False


def normalizer(raw: bytes) -> tuple[str, bool]:
    best = charset_normalizer.from_bytes(raw).best()
    if best is None:
        raise Unreadable("none")
    return str(best), True


def resiliparse(raw: bytes) -> tuple[str, bool]:
    return raw.decode(detect_encoding(raw), "replace"), True


def chardet(raw: bytes) -> tuple[str, bool]:
    import chardet

    return raw.decode(chardet.detect(raw)["encoding"] or "ascii", "replace"), True


CONTESTANTS: list[Callable[[bytes], tuple[str, bool]]] = [moenda, before, normalizer, resiliparse, chardet]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--excerpt", type=int, default=300, help="characters of the short files")
    parser.add_argument("--wrong", action="store_true", help="list what moenda reads wrongly")
    parser.add_argument("--only", nargs="*", help="contestants")
    options = parser.parse_args()
    print(
        f"{'files':<22}{'reader':<14}{'number':>7}{'right':>8}{'set aside':>11}{'wrong, counted':>16}{'wrong in silence':>18}"
    )
    with zipfile.ZipFile(options.archive) as archive:
        for title, excerpt in (("whole", None), (f"{options.excerpt} characters", options.excerpt)):
            files = list(labelled(archive, excerpt))
            for read in CONTESTANTS:
                if options.only and read.__name__ not in options.only:
                    continue
                counts: Counter[str] = Counter()
                for language, encoding, raw, text in files:
                    try:
                        found, assumed = read(raw)
                    except (Unreadable, LookupError):
                        counts["aside"] += 1
                        continue
                    outcome = "right" if found == text else "counted" if assumed else "silent"
                    counts[outcome] += 1
                    if options.wrong and read is moenda and outcome != "right":
                        print(f"  {language} {encoding}: {text_encoding.decode(raw).encoding} {outcome}")
                cells = [counts[name] for name in ("aside", "counted", "silent")]
                share = f"{counts['right'] / len(files):.1%}"
                print(f"{title:<22}{read.__name__:<14}{len(files):>7}{share:>8}{cells[0]:>11}{cells[1]:>16}{cells[2]:>18}")


if __name__ == "__main__":
    main()
