"""The run file: one strict JSON per run in ds_configs/, each section owned by the module that uses it.

A number has one home. What DeepSpeed's own JSON would repeat (batch sizes, ZeRO stage, gradient clipping) is derived
from these sections by `trainer.ds_config`; the `deepspeed` section holds everything else, verbatim.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

import strict_json
from data_prep.shards import CacheSettings
from trainer.batch import BatchSection
from trainer.lr_schedule import ScheduleSection
from trainer.parallel.topology import ParallelSection

Name = Annotated[str, Field(min_length=1)]
"""Of a folder, a file, a URL."""


class RunSection(strict_json.StrictModel):
    """Where the run lives and what makes it repeatable."""

    folder: Name
    """Run folder: checkpoints, metrics and logs. Relative paths start at the working directory. Starting the same run
    file again resumes the run in this folder."""
    seed: int = Field(default=1234, ge=0, lt=2**63)
    """Seed of parameter initialisation, data order and dropout."""


class ModelSection(strict_json.StrictModel):
    """Which Hugging Face causal language model is trained, and from which weights."""

    config: Name | dict[str, Any] | None = None
    """A Hugging Face model configuration: inline (an object with `model_type`), a config.json, a local model folder, or
    a hub name. Inline, `vocab_size` and the number of positions may be "auto": taken from the shards (rounded up to a
    multiple of 64) and from data.sequence_length. Without `model_type`, an object changes keys of the configuration in
    `init_from`, which is the default."""
    init_from: Name | None = None
    """Local Hugging Face folder with safetensors weights to start from; null: random initialisation."""
    compile: bool = False
    """Compile each block with torch.compile (inductor): faster steps, after some minutes at the start. Needs a C++ compiler."""
    attention: str = "sdpa"
    """Attention implementation by its Hugging Face name: sdpa, eager, flex_attention, flash_attention_2, flash_attention_3."""
    activation_checkpointing: bool | Annotated[int, Field(ge=1)] | Literal["selective"] = False
    """Recompute activations in the backward pass, for less memory: true in each block (about a third more compute), a number n
    in every n-th block, "selective" in each block all but its matrix products and attention."""
    fused_loss: bool | Literal["auto"] = "auto"
    """Compute head and loss a few tokens at a time, so that logits never fill the memory; "auto": where the model allows it
    (the plan says why not); true: else refuse; false: all logits at once."""


Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Packing = Literal["concatenate", "best_fit", "pad"]


class SourceSection(strict_json.StrictModel):
    """One of the sources that are mixed."""

    shards: Name
    """Folder of token shards (holds manifest.json), an fsspec URL of one, or a Megatron corpus (its path without .bin/.idx)."""
    weight: Weight | None = None
    """Share of the training tokens, relative to the other sources' weights; null for all sources: as many as the source has.
    0: none, until a stage of `curriculum` gives it one."""
    max_epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Most passes over this source; then the others share its weight. null: no limit."""
    packing: Packing | None = None
    """As data.packing, for this source; null: data.packing."""
    max_documents: int | None = Field(default=None, ge=1)
    """As data.max_documents, for this source; null: data.max_documents."""


class CurriculumStage(strict_json.StrictModel):
    """What changes from a number of training tokens on."""

    from_tokens: int = Field(ge=0, lt=2**60)
    """Tokens of training before it. Weights change with the first window at or after it, the length with the first step."""
    weights: dict[str, Weight] | None = None
    """New weights by source; sources that are not named keep theirs."""
    sequence_length: int | None = Field(default=None, ge=1)
    """Cut every window into parts of this many tokens, a divisor of data.sequence_length: the same tokens in the same order,
    in shorter contexts (arXiv 2108.06084). null: as before."""


class CacheSection(strict_json.StrictModel):
    """Where each node keeps what it has fetched of shards behind a URL (s3://..., gs://..., https://..., any of fsspec)."""

    folder: Name | None = None
    """On a local disk, shared by the processes of a node; null: moenda/shards in $XDG_CACHE_HOME or ~/.cache."""
    gigabytes: float = Field(default=100, gt=0)
    """Chunks never take more in it; what was used longest ago makes room. Nothing else in the folder is touched."""
    chunk_kib: int = Field(default=1024, ge=64, multiple_of=64)
    """KiB fetched at a time. Windows come in random order, so each fetches a chunk as long as the cache does not hold the
    corpus: smaller chunks for a cache that is much smaller, larger ones where a request takes long."""
    always: bool = False
    """Read shards through the cache also where they are given by a path: for a slow network mount."""

    @model_validator(mode="after")
    def _holds_some_chunks(self) -> CacheSection:
        self.settings()
        return self

    def settings(self) -> CacheSettings:
        """As the reader of shards takes it. Raises ValueError when the cache is too small for its chunks."""
        folder = None if self.folder is None else Path(self.folder)
        return CacheSettings(folder, int(self.gigabytes * 1e9), self.chunk_kib * 1024, self.always)


class DataSection(strict_json.StrictModel):
    """Token shards, as written by `python -m data_prep run`."""

    train: Name | None = None
    """Folder of the training shards, where there is one source: as `shards` of a source. Relative paths start at the working
    directory."""
    sources: dict[str, SourceSection] | None = None
    """Several sources by name, mixed by weight; instead of `train`."""
    curriculum: list[CurriculumStage] = Field(default=[])
    """Changes of weights and window length while the run goes on, by ascending from_tokens. Stages that begin later may be
    added, changed and removed while it runs; so may sources without weight before them."""
    validation: Name | None = None
    """Folder of held-out shards for the validation loss; null: no evaluation."""
    tokenizer: Name | None = None
    """Tokenizer folder, copied into exports; null: the `tokenizer` folder that data_prep wrote beside the shards."""
    sequence_length: int = Field(ge=1)
    """Context window in tokens; with a curriculum of lengths, the longest."""
    packing: Packing = "concatenate"
    """How documents fill windows: concatenate (joined and cut: GPT-3), best_fit (no document cut that fits a window, arXiv
    2404.10830), pad (one document a window). The last two need `python -m data_prep pack`."""
    max_documents: int | None = Field(default=None, ge=1)
    """Most documents in a best_fit window; null: any number."""
    document_mask: bool = False
    """Keep attention within each document of a window, with positions that start again at each document."""
    cache: CacheSection = CacheSection()
    """The local cache of remote shards."""


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSection(strict_json.StrictModel):
    """AdamW (Loshchilov & Hutter, arXiv 1711.05101); defaults are GPT-3's (arXiv 2005.14165, appendix B)."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate; the schedule scales it."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay rates of the first and second moments."""
    eps: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay, applied to matrices and embeddings; not to biases and norm gains (1-dimensional)."""
    gradient_clipping: float = Field(default=1.0, ge=0)
    """Largest global L2 norm of the gradient; 0 turns clipping off. Home of DeepSpeed's `gradient_clipping`."""
    max_skipped_steps: int | None = Field(default=None, ge=0)
    """Steps in a row that may change no weight because their gradients are not finite; one more ends the run. null: 10, and 30
    in fp16, where each step that the loss scale is sought in is one."""

    def skips_allowed(self, precision: str) -> int:
        """max_skipped_steps, or its default."""
        return {"fp16": 30}.get(precision, 10) if self.max_skipped_steps is None else self.max_skipped_steps


class CheckpointSection(strict_json.StrictModel):
    """When checkpoints are written to RUN_FOLDER/checkpoints, and how many stay."""

    every_steps: int = Field(default=1000, ge=1)
    """Save after every this many optimizer steps, and at the end."""
    keep: int | None = Field(default=None, ge=1)
    """Keep this many of the newest checkpoints; null: keep all."""


class EvaluationSection(strict_json.StrictModel):
    """Validation loss and bits per byte on the held-out shards."""

    every_steps: int = Field(default=100, ge=1)
    """Evaluate after every this many optimizer steps, and at the end."""
    max_windows: int | None = Field(default=None, ge=1)
    """Evaluate this many windows, spread evenly over the held-out shards; null: all of them."""


class MonitorSection(strict_json.StrictModel):
    """What is written to metrics.jsonl, TensorBoard and the screen."""

    log_every: int = Field(default=1, ge=1)
    """Record metrics every this many optimizer steps."""
    tensorboard: bool = True
    """Write TensorBoard event files to RUN_FOLDER/tensorboard."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """Peak dense TFLOP/s of one device, the denominator of MFU; null: known from the device's name, or no MFU."""


class RunConfig(strict_json.StrictModel):
    """One training run."""

    schema_path: str | None = Field(default=None, alias="$schema")
    """Path of the JSON Schema, for editors."""
    run: RunSection
    model: ModelSection
    data: DataSection
    batch: BatchSection
    parallel: ParallelSection = ParallelSection()
    optimizer: OptimizerSection
    schedule: ScheduleSection
    checkpoint: CheckpointSection = CheckpointSection()
    evaluation: EvaluationSection = EvaluationSection()
    monitor: MonitorSection = MonitorSection()
    deepspeed: dict[str, Any] = Field(default_factory=dict)
    """DeepSpeed's own JSON, verbatim. Keys that the sections above decide may be left out or given as "auto"."""


def load(path: str | Path, assignments: list[str]) -> RunConfig:
    """Read a run file and apply `--set section.key=value` assignments. Raises ConfigError listing every mistake."""
    raw = strict_json.override(strict_json.read(path), assignments)
    config = strict_json.validate(RunConfig, raw, path)
    if config.model.config is None and config.model.init_from is None:
        raise strict_json.ConfigError(f"{path}: model.config or model.init_from must say which model to train.")
    return config
