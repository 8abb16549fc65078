"""Which tokenizer wrote these token ids."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from data_prep.shards.format import ShardError


def tokenizer_fingerprint(tokenizer_json: str | Path) -> str:
    """SHA-256 (hex) over what a tokenizer.json says about ids: canonical JSON without its truncation and padding settings,
    which change with every use and no id. Raises ShardError when the file is not a tokenizer."""
    return fingerprint_of(load_tokenizer(tokenizer_json))


def load_tokenizer(tokenizer_json: str | Path) -> dict[str, Any]:
    """The content of a tokenizer.json. Raises ShardError when the file is not a tokenizer."""
    try:
        raw = Path(tokenizer_json).read_bytes()
    except OSError as error:
        raise ShardError(f"{tokenizer_json}: not a readable tokenizer.json: {error}") from None
    return parse_tokenizer(raw, tokenizer_json)


def parse_tokenizer(raw: bytes, origin: str | Path) -> dict[str, Any]:
    """The content of a tokenizer.json from its bytes. Raises ShardError, which names `origin`, when it is not a tokenizer's."""
    try:
        content = json.loads(raw.decode())
    except ValueError as error:
        raise ShardError(f"{origin}: not a readable tokenizer.json: {error}") from None
    if not isinstance(content, dict) or "model" not in content:
        raise ShardError(f'{origin}: not a tokenizer.json (it has no "model").')
    return content


def fingerprint_of(tokenizer: dict[str, Any]) -> str:
    """`tokenizer_fingerprint` of a tokenizer.json's content."""
    canonical = {key: value for key, value in tokenizer.items() if key not in ("truncation", "padding")}
    if _adds_nothing(canonical.get("post_processor")):
        canonical["post_processor"] = None  # what saving by Hugging Face's transformers makes of null
    text = json.dumps(canonical, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _adds_nothing(post_processor: Any) -> bool:
    """Whether it is a template in which nothing but the text stands."""
    if not isinstance(post_processor, dict) or post_processor.get("type") != "TemplateProcessing":
        return False
    single = post_processor.get("single")
    return (
        isinstance(single, list) and len(single) == 1 and "Sequence" in single[0] and not post_processor.get("special_tokens")
    )
