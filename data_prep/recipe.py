"""The recipe: one strict JSON for a whole corpus build."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

import strict_json
from data_prep.dedup.decontaminate import DecontaminationSettings
from data_prep.dedup.lines import RepeatedTextSettings
from data_prep.dedup.minhash import MinHashSettings
from data_prep.filters import Filter
from data_prep.shards.plan import plan_name
from data_prep.sources import Source


class DedupSection(strict_json.StrictModel):
    """Removal of repeated documents."""

    exact: bool = True
    """Keep only the first of documents whose texts are equal but for white space and Unicode composition (NFC)."""
    repeated_text: RepeatedTextSettings | None = None
    """Remove lines or paragraphs that stand in many documents; null: leave them."""
    near: MinHashSettings | None = None
    """Keep only the first of documents that are nearly the same; null: keep all. {} takes the defaults."""
    decontaminate: DecontaminationSettings | None = None
    """Cut or drop what evaluation sets hold, so that they can be trusted later; null: leave it."""


class TokenizerSection(strict_json.StrictModel):
    """A tokenizer to train on the corpus, or an existing one."""

    path: str | None = None
    """Existing tokenizer: a tokenizer.json or a Hugging Face folder that holds one, relative to the recipe; null: train one."""
    vocab_size: int | None = Field(default=None, ge=257)
    """Size of the byte-level BPE vocabulary to train, the end-of-document token included."""
    eod_token: str | None = None
    """End-of-document token; null: <|endoftext|> when training, else the tokenizer's own end-of-sequence token."""
    sample_megabytes: int = Field(default=1000, ge=1)
    """Text to train on: all documents, or an even sample of about this size."""

    @model_validator(mode="after")
    def _one_of_two(self) -> TokenizerSection:
        if (self.path is None) == (self.vocab_size is None):
            raise ValueError("give either path (an existing tokenizer) or vocab_size (train one), not both or neither")
        return self


class ShardsSection(strict_json.StrictModel):
    """Form of the token shards."""

    tokens_per_shard: int = Field(default=2**28, ge=1)
    """A shard is closed at the first document that fills it to this many tokens."""
    validation_fraction: float = Field(default=0.01, ge=0, lt=1)
    """Share of documents held out, chosen by a hash of their ids; at least one document when above 0."""


class WindowsSection(strict_json.StrictModel):
    """A way of packing documents into context windows, whose plan is written beside the shards."""

    length: int = Field(ge=1, lt=2**31)
    """Tokens in a window: the run's sequence length."""
    way: Literal["best_fit", "pad"] = "best_fit"
    """best_fit: no document that fits a window is cut; pad: every document alone. "concatenate" needs no plan."""
    max_documents: int | None = Field(default=None, ge=1)
    """Most documents in a window of best_fit, so that none is a heap of tiny ones; null: any number."""

    @model_validator(mode="after")
    def _cap_goes_with_the_way(self) -> WindowsSection:
        plan_name(self.way, self.length, self.max_documents)
        return self


class Recipe(strict_json.StrictModel):
    """A corpus build."""

    schema_path: str | None = Field(default=None, alias="$schema")
    """Path of the JSON Schema, for editors."""
    output: str
    """Folder of the corpus, relative to the recipe; made if absent."""
    seed: int = 0
    """Seed of the validation split and the tokenizer's sample."""
    sources: list[Source] = Field(min_length=1)
    """What the corpus is made of; the order decides which of two equal documents stays."""
    task_megabytes: int = Field(default=64, ge=1)
    """Input per task: files of less than half of it are grouped, to about half. A killed build repeats at most the tasks in
    progress, and one that grows the groups into which new files fall."""
    clean: list[Filter] = Field(default_factory=list)
    """Filters, in order: each document goes through them until one drops it."""
    dedup: DedupSection = DedupSection()
    tokenizer: TokenizerSection
    shards: ShardsSection = ShardsSection()
    windows: list[WindowsSection] = Field(default_factory=list)
    """Plans of packed windows to write over the shards; runs that concatenate documents need none."""

    @model_validator(mode="after")
    def _names_differ(self) -> Recipe:
        names = [source.name for source in self.sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two sources have the same name: {', '.join(repeated)}")
        return self


class Build(strict_json.StrictModel):
    """A recipe with its place, from which relative paths start."""

    recipe: Recipe
    base: Path

    @property
    def output(self) -> Path:
        """The corpus folder."""
        return (self.base / self.recipe.output).resolve()


def load(path: str | Path, assignments: list[str]) -> Build:
    """Read a recipe and apply `--set key=value` assignments. Raises ConfigError listing every mistake."""
    raw = strict_json.override(strict_json.read(path), assignments)
    return Build(recipe=strict_json.validate(Recipe, raw, path), base=Path(path).resolve().parent)
