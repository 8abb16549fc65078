"""Everything that can be known before a worker starts: the run file, the batch, the data, the model, the run folder.

All of a user's mistakes end here, as a ValueError that says what to change, before torch.distributed is initialised and
before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.shards import ShardError, TokenShards, Windows, tokenizer_fingerprint
from trainer import batch, config, ds_config, run_folder, topology
from trainer.model import build, families
from trainer.state import TrainState


class PreflightError(ValueError):
    """The run cannot start as asked."""


@dataclass(frozen=True)
class RunPlan:
    """A run, fully decided."""

    config: config.RunConfig
    topology: topology.Topology
    batch: batch.BatchPlan
    ds_config: dict[str, Any]
    precision: str
    hf_config: Any
    train: Windows
    validation: Windows | None
    folder: Path
    record: dict[str, Any]
    """Content of the run folder's run.json: `identity`, which a resume must match, and where the data lay."""
    start: TrainState
    resume_from: Path | None

    @property
    def total_steps(self) -> int:
        """Optimizer steps until schedule.total_tokens are consumed; the last one may go past them."""
        return -(-self.config.schedule.total_tokens // self.batch.global_batch_tokens)

    def effective_config(self) -> dict[str, Any]:
        """The run file with every default and "auto" filled in: itself a run file of the same run."""
        effective = self.config.model_dump(mode="json", exclude={"schema_path"})
        effective["model"]["config"] = self.record["identity"]["model"]
        effective["batch"] |= {
            "micro_batch_size": self.batch.micro_batch_size,
            "gradient_accumulation_steps": self.batch.gradient_accumulation_steps,
        }
        return effective

    def describe(self) -> str:
        """The plan for a person, one fact a line."""
        return "\n".join(f"{name:<12}{text}" for name, text in self._facts())

    def _facts(self) -> Iterator[tuple[str, str]]:
        parallel, section = self.topology, self.config
        layers = self.hf_config.num_hidden_layers
        yield "model", f"{self.hf_config.model_type}, {layers} layers, vocabulary {self.hf_config.vocab_size:,}"
        yield "data", f"{self.train.shards.tokens:,} tokens in {len(self.train):,} windows of {self.batch.sequence_length}"
        yield (
            "ranks",
            (
                f"{parallel.world_size} = {parallel.pipeline_stages} pipeline stages x {parallel.data_parallel_size} data "
                f"parallel, ZeRO-{section.parallel.zero_stage}, {self.precision}"
            ),
        )
        yield "batch", self.batch.describe()
        epochs = section.schedule.total_tokens / (len(self.train) * self.batch.sequence_length)
        yield "length", f"{self.total_steps:,} steps, {section.schedule.total_tokens:,} tokens, {epochs:.2f} epochs"
        origin = f"resumes {self.resume_from} at step {self.start.step}" if self.resume_from else "starts from step 0"
        yield "run folder", f"{self.folder} ({origin})"


def prepare(path: str | Path, assignments: list[str], world_size: int) -> RunPlan:
    """Decide the run. Raises ValueError (one of the modules' own) for anything that the user has to change."""
    settings = config.load(path, assignments)
    layout = topology.from_world(settings.parallel, world_size)
    length = settings.data.sequence_length
    plan = batch.solve(settings.batch, length, layout.data_parallel_size, layout.pipeline_stages)
    engine_settings = ds_config.derive(settings, plan)
    precision = ds_config.precision(engine_settings)

    train = _open(settings.data.train, "data.train", length)
    validation = _open(settings.data.validation, "data.validation", length) if settings.data.validation else None
    _check_data(train, validation, plan)
    tokenizer = _tokenizer(settings.data, train)

    shards = train.shards
    spec = settings.model.config if settings.model.config is not None else settings.model.init_from
    hf_config = build.load_config(spec, shards.vocab_size, shards.eod_id, length)
    _check_model(settings, hf_config, shards, layout)

    folder = Path(settings.run.folder)
    identity = _identity(settings, layout, plan, precision, hf_config, train)
    start, resume_from = run_folder.check(folder, identity)
    record = {
        "identity": identity,
        "train_folder": str(Path(settings.data.train).resolve()),
        "tokenizer_folder": str(tokenizer.resolve()) if tokenizer else None,
    }
    return RunPlan(
        settings, layout, plan, engine_settings, precision, hf_config, train, validation, folder, record,
        start, resume_from,
    )  # fmt: skip


def _open(folder: str, key: str, sequence_length: int) -> Windows:
    try:
        return Windows(TokenShards.open(folder), sequence_length)
    except ShardError as error:
        raise PreflightError(f"{key}: {error}") from None


def _check_data(train: Windows, validation: Windows | None, plan: batch.BatchPlan) -> None:
    if len(train) < plan.windows_per_step:
        raise PreflightError(
            f"data.train holds {train.shards.tokens:,} tokens = {len(train):,} windows of {train.sequence_length}, less "
            f"than one global batch of {plan.windows_per_step:,} windows ({plan.global_batch_tokens:,} tokens). Add "
            f"text, or set batch.global_batch_tokens to at most {len(train) * train.sequence_length:,}."
        )
    if validation is None:
        return
    if len(validation) == 0:
        raise PreflightError("data.validation is empty. Set it to null, or hold out more documents in the recipe.")
    for name in ("tokenizer_fingerprint", "vocab_size", "eod_id"):
        ours, theirs = getattr(train.shards, name), getattr(validation.shards, name)
        if ours != theirs:
            raise PreflightError(
                f"data.validation was written with another tokenizer than data.train: {name} {theirs}, not {ours}. "
                f"Build both from one recipe."
            )


def _tokenizer(data: config.DataSection, train: Windows) -> Path | None:
    """The tokenizer folder, proven to be the shards' own."""
    folder = Path(data.tokenizer) if data.tokenizer else Path(data.train).parent.parent / "tokenizer"
    file = folder / "tokenizer.json"
    if not file.is_file():
        if data.tokenizer:
            raise PreflightError(f"data.tokenizer: {folder} holds no tokenizer.json.")
        return None
    _same_tokenizer(file, train.shards, "data.tokenizer")
    return folder


def _same_tokenizer(file: Path, shards: TokenShards, key: str) -> None:
    found = tokenizer_fingerprint(file)
    if found != shards.tokenizer_fingerprint:
        raise PreflightError(
            f"{key}: {file} is another tokenizer than the one that wrote the shards (fingerprint {found[:16]}, the "
            f"shards say {shards.tokenizer_fingerprint[:16]}): its token ids mean other text. Name the tokenizer of "
            f"these shards, or build shards with this one."
        )


def _check_model(settings: config.RunConfig, hf_config: Any, shards: TokenShards, layout: topology.Topology) -> None:
    build.check_fits(hf_config, shards.vocab_size, settings.data.sequence_length, layout.pipeline_stages)
    if layout.pipeline_stages > 1:
        families.anatomy(hf_config.model_type)
    model = build.skeleton(hf_config, settings.model.attention)
    build.check_causal(model)
    if settings.model.init_from:
        build.Weights(settings.model.init_from, model).check(model)
        file = Path(settings.model.init_from) / "tokenizer.json"
        if file.is_file():
            _same_tokenizer(file, shards, "model.init_from")


def _identity(
    settings: config.RunConfig,
    layout: topology.Topology,
    plan: batch.BatchPlan,
    precision: str,
    hf_config: Any,
    train: Windows,
) -> dict[str, Any]:
    """What must stay the same for a resume to continue the same curve."""
    model = hf_config.to_diff_dict()
    model.pop("transformers_version", None)
    identity = {
        "model": model,
        "init_from": settings.model.init_from,
        "attention": settings.model.attention,
        "seed": settings.run.seed,
        "corpus_fingerprint": train.shards.fingerprint,
        "tokenizer_fingerprint": train.shards.tokenizer_fingerprint,
        "sequence_length": plan.sequence_length,
        "global_batch_tokens": plan.global_batch_tokens,
        "micro_batch_size": plan.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "data_parallel_size": layout.data_parallel_size,
        "pipeline_stages": layout.pipeline_stages,
        "zero_stage": settings.parallel.zero_stage,
        "precision": precision,
        "optimizer": settings.optimizer.model_dump(mode="json"),
    }
    return json.loads(json.dumps(identity))  # as it will be read back: a configuration's numeric keys become text
