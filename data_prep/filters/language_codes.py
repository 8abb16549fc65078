"""Codes of languages: BCP 47 tags and ISO 639 codes, read as the codes of the lid.176 model."""

from __future__ import annotations

from functools import lru_cache

import langcodes

from strict_json import did_you_mean

_NAMES = """
af als am an ar arz as ast av az azb ba bar bcl be bg bh bn bo bpy br bs bxr ca cbk ce ceb ckb co cs cv cy da de diq
dsb dty dv el eml en eo es et eu fa fi fr frr fy ga gd gl gn gom gu gv he hi hif hr hsb ht hu hy ia id ie ilo io is it
ja jbo jv ka kk km kn ko krc ku kv kw ky la lb lez li lmo lo lrc lt lv mai mg mhr min mk ml mn mr mrj ms mt mwl my myv
mzn nah nap nds ne new nl nn no oc or os pa pam pfl pl pms pnb ps pt qu rm ro ru rue sa sah sc scn sco sd sh si sk sl
so sq sr su sv sw ta te tg th tk tl tr tt tyv ug uk ur uz vec vep vi vls vo wa war wuu xal xmf yi yo yue zh
"""
KNOWN = tuple(_NAMES.split())
"""The languages that lid.176 knows, by the names of their Wikipedias."""
_WIKIPEDIA = {"gsw": "als", "fil": "tl", "zlm": "ms", "nb": "no", "bih": "bh"}
"""ISO code -> the code of its Wikipedia, where they differ."""


@lru_cache(maxsize=4096)
def model_code(tag: str) -> str:
    """Return the model's code for a language tag: "en" for "EN", "eng" and "en-US"; "no" for "nb"; "zh" for "cmn-Hant".

    Region and script are passed over, as the model does not tell them apart. Raises ValueError for a tag that is none, or
    that names a language unknown to the model.
    """
    code = tag.strip().replace("_", "-").lower()
    if code == "als":
        raise ValueError('"als" is Alemannic to the model and Tosk Albanian in ISO 639-3: write "gsw" or "sq".')
    if code in KNOWN:
        return code
    try:
        language = langcodes.Language.get(code)
    except langcodes.LanguageTagError:
        language = None
    for candidate in (language, language and language.prefer_macrolanguage()):
        found = candidate.language if candidate else None
        if found and _WIKIPEDIA.get(found, found) in KNOWN:
            return _WIKIPEDIA.get(found, found)
    what = "names a language that the model does not know" if language and language.is_valid() else "is no code of a language"
    raise ValueError(
        f'"{tag}" {what}.{did_you_mean(code, KNOWN)} BCP 47 tags and ISO 639 codes are understood, such as "en", "eng" or '
        f'"en-US", for these languages: {", ".join(KNOWN)}.'
    )


def same_language(declared: str, found: str) -> bool:
    """Tell whether a declared tag names the language of a model's code; a tag that is not understood names none."""
    try:
        return model_code(declared) == found
    except ValueError:
        return False
