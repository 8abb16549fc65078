"""Everything that can be known before a worker starts: the run file, the batch, the data, the model, the run folder.

All of a user's mistakes end here, as a ValueError that says what to change, before torch.distributed is initialised and
before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from data_prep.shards import ShardError, TokenShards, Windows, open_shards
from data_prep.shards.fingerprint import fingerprint_of, parse_tokenizer
from data_prep.shards.storage import is_remote, join, read_whole
from trainer import batch, batch_ramp, config, deepspeed_values, ds_config, offload, run_folder
from trainer.data.corpus import Corpus, check_same_tokenizer, key_of, open_corpus
from trainer.metrics import METRICS_FILE
from trainer.model import (
    build,
    document_mask,
    families,
    fused_loss,
    partition,
    pipeline_probe,
    sequence_parallel,
    tensor_parallel,
)
from trainer.parallel import plan_table, topology
from trainer.state import TrainState, differences

NUMERIC_KEYS = (
    "torch_autocast", "communication_data_type", "seq_parallel_communication_data_type", "prescale_gradients",
    "gradient_predivide_factor",
)  # fmt: skip
"""DeepSpeed's keys that a resumed run must not change, beside ds_config.QUANTIZED."""


class PreflightError(ValueError):
    """The run cannot start as asked."""


@dataclass(frozen=True)
class RunPlan:
    """A run, fully decided."""

    config: config.RunConfig
    topology: topology.Topology
    batch: batch.BatchPlan
    """The full batch."""
    batches: batch_ramp.BatchSchedule
    """The batch of every step."""
    ds_config: dict[str, Any]
    precision: str
    hf_config: Any
    corpus: Corpus
    validation: Windows | None
    folder: Path
    record: dict[str, Any]
    """Content of the run folder's run.json: `identity`, which a resume must match, and where the tokenizer lay."""
    start: TrainState
    resume_from: Path | None
    chain: str | None
    """The ledger's chain that the checkpoint records."""
    whole_logits: str | None
    """Why all logits of a micro-batch are made at once; None: they are not (model.fused_loss)."""

    @property
    def total_tokens(self) -> int:
        """schedule.total_tokens."""
        return self.config.schedule.total_tokens

    @property
    def total_steps(self) -> int:
        """Optimizer steps until schedule.total_tokens are consumed; the last one may go past them."""
        return self.batches.steps(self.total_tokens)

    def order_before(self, state: TrainState) -> dict[str, Any]:
        """What decided the order of all tokens that `state` has seen, as JSON values: a resume must agree."""
        return order_before(self.corpus, self.batches, state)

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

    def table(self, hosts: Sequence[str] = ()) -> str:
        """Who holds what, a line per rank or group of ranks. hosts: of every rank, where known."""
        stages = self.topology.pipeline_stages
        held = partition.planned(self) if stages > 1 else [[]]
        layers = ["by their measured cost"] * stages if held is None else [plan_table.names(names) for names in held]
        return "\n".join(plan_table.lines(self.topology, self.batch, self.config.parallel.zero_stage, layers, hosts))

    def _facts(self) -> Iterator[tuple[str, str]]:
        parallel, section = self.topology, self.config
        layers = self.hf_config.num_hidden_layers
        yield "model", f"{self.hf_config.model_type}, {layers} layers, vocabulary {self.hf_config.vocab_size:,}"
        if (coefficient := getattr(self.hf_config, "router_aux_loss_coef", None)) is not None:
            counts = getattr(self.hf_config, "output_router_logits", False)
            off = "without auxiliary loss, as output_router_logits is false in model.config"
            yield "experts", f"with their auxiliary loss times {coefficient}" if counts else off
        for line in self.corpus.describe(self.total_tokens):
            yield "data", line
        for tokens, length in self.corpus.lengths[bool(self.corpus.lengths[0][1] == self.batch.sequence_length) :]:
            yield "windows", f"of {length} tokens from token {tokens:,} on"
        yield "ranks", f"{parallel.describe()}, ZeRO-{section.parallel.zero_stage}, {self.precision}"
        for line in offload.describe(self.ds_config, self.precision):
            yield "offload", line
        yield "batch", self.batch.describe()
        if self.whole_logits:
            yield "loss", f"from all logits of a micro-batch at once: {self.whole_logits}"
        if ramp := self.batches.describe():
            yield "ramp", ramp
        yield "length", f"{self.total_steps:,} steps, {self.total_tokens:,} tokens"
        origin = f"resumes {self.resume_from} at step {self.start.step}" if self.resume_from else "starts from step 0"
        if not self.resume_from and (self.folder / METRICS_FILE).is_file():
            origin += ": it holds no whole checkpoint, so the steps of an earlier start are done again"
        yield "run folder", f"{self.folder} ({origin})"


def prepare(path: str | Path, assignments: list[str], world_size: int) -> RunPlan:
    """Decide the run. Raises ValueError (one of the modules' own) for anything that the user has to change."""
    settings = config.load(path, assignments)
    length = settings.data.sequence_length
    layout = topology.from_world(settings.parallel, world_size, _layers(settings))
    batches = batch_ramp.plan_batches(settings.batch, length, layout.data_parallel_size, layout.pipeline_stages)
    plan = batches.full
    engine_settings = ds_config.derive(settings, plan)
    deepspeed_values.check(engine_settings)
    precision = ds_config.precision(engine_settings)

    corpus = open_corpus(settings.data, settings.run.seed)
    validation = _validation(settings.data, corpus) if settings.data.validation else None
    _check_amount(corpus, batches, settings.schedule.total_tokens)
    tokenizer = _tokenizer(settings.data, corpus)

    shards = corpus.windows[0].shards
    hf_config = _model_config(settings, shards.vocab_size, shards.eod_id)
    whole_logits = _check_model(settings, hf_config, corpus, layout)
    if offload.disk_paths(engine_settings):
        skeleton = build.skeleton(hf_config, settings.model.attention)
        ranks = layout.world_size // layout.tensor
        offload.complete(engine_settings, max(-(-parameter.numel() // ranks) for parameter in skeleton.parameters()))

    folder = Path(settings.run.folder)
    identity = _identity(settings, layout, plan, precision, hf_config, shards) | _numerics(engine_settings)
    resume_from = run_folder.check(folder, identity)
    start, chain = _continue(resume_from, corpus, batches) if resume_from else (TrainState(), None)
    record = {"identity": identity, "tokenizer_folder": tokenizer}
    return RunPlan(
        settings, layout, plan, batches, engine_settings, precision, hf_config, corpus, validation, folder, record,
        start, resume_from, chain, whole_logits,
    )  # fmt: skip


def _model_config(settings: config.RunConfig, vocab_size: int, eod_id: int) -> Any:
    section = settings.model
    spec = section.config if section.config is not None else section.init_from
    return build.load_config(spec, vocab_size, eod_id, settings.data.sequence_length, init_from=section.init_from)


def _layers(settings: config.RunConfig) -> int | None:
    """Blocks of the model, where stages are to share them: known before the data, whose vocabulary does not matter here."""
    if settings.parallel.pipeline_stages == 1:
        return None
    return getattr(_model_config(settings, vocab_size=2**20, eod_id=0), "num_hidden_layers", None)


def at_checkpoint(plan: RunPlan, step: int | None) -> RunPlan:
    """The plan that goes on from the checkpoint of `step`, where another is the newest on this disk."""
    if step is None or plan.start.step == step:
        return plan
    resume_from = plan.folder / run_folder.CHECKPOINTS / run_folder.checkpoint_name(step)
    start, chain = _continue(resume_from, plan.corpus, plan.batches)
    return replace(plan, start=start, resume_from=resume_from, chain=chain)


def order_before(corpus: Corpus, batches: batch_ramp.BatchSchedule, state: TrainState) -> dict[str, Any]:
    """What decided which tokens the steps before `state` consumed, and in which batches, as JSON values."""
    first, tokens = -(-state.tokens_seen // corpus.sequence_length), state.tokens_seen
    return {
        **corpus.mixture.history(first),
        "lengths": [list(stage) for stage in corpus.lengths if stage[0] < max(1, tokens)],
        "batches": [
            [rung.first_step, rung.batch.global_batch_tokens] for rung in batches.rungs if rung.first_token < max(1, tokens)
        ],
    }


def _continue(checkpoint: Path, corpus: Corpus, batches: batch_ramp.BatchSchedule) -> tuple[TrainState, str | None]:
    """The state to go on from, and its ledger's chain. Raises PreflightError when the run file would have another past."""
    saved = run_folder.read_state(checkpoint)
    state = TrainState(**saved["state"])
    now = order_before(corpus, batches, state)
    if changed := _changed_past(saved["order"], now, corpus):
        raise PreflightError(
            f"{checkpoint} has consumed {state.tokens_seen:,} tokens in another order than this run file and these shards give:"
            "\n  "
            + "\n  ".join(changed)
            + "\nNothing was written. Restore what decided it. Weights and lengths may change from "
            f'token {state.tokens_seen:,} on, in a stage of data.curriculum with "from_tokens" at least that (new sources with '
            f"weight 0 before). Or choose another run.folder for a new run."
        )
    if batches.tokens_after(state.step) != state.tokens_seen:
        raise PreflightError(
            f"{checkpoint}: {state.step} steps of these batches are {batches.tokens_after(state.step):,} tokens, but its "
            f"{run_folder.STATE_FILE} says {state.tokens_seen:,}. Remove this checkpoint, to go on from an older one."
        )
    return state, saved.get("chain")


def _changed_past(saved: dict[str, Any], now: dict[str, Any], corpus: Corpus) -> list[str]:
    """What differs in two orders so far: of the segments the first that does, by the sources' names."""
    names = {source.fingerprint: source.name for source in corpus.mixture.sources}

    def shown(segment: dict[str, Any] | None) -> str:
        if segment is None:
            return "no change"
        shares = {names.get(key, f"another source ({key[:8]})"): share for key, share in segment["shares"].items()}
        return ", ".join(f"{name} {share / sum(shares.values()):.2%}" for name, share in sorted(shares.items()))

    pairs = zip_longest(saved.get("segments", []), now["segments"])
    apart = next(((before, after) for before, after in pairs if before != after), None)
    lines = []
    if apart is not None:
        token = min(segment["first_window"] for segment in apart if segment) * corpus.sequence_length
        lines.append(f"from token {token:,} on: windows of {shown(apart[0])} in the run, {shown(apart[1])} by this run file")
    rest = [{key: value for key, value in order.items() if key != "segments"} for order in (saved, now)]
    return lines + list(differences(*rest))


def _validation(data: config.DataSection, corpus: Corpus) -> Windows:
    """The held-out windows: joined and cut, whatever the packing of the training windows."""
    try:
        shards = open_shards(data.validation, data.tokenizer, cache=data.cache.settings())
        windows = Windows(shards, data.sequence_length, documents=data.document_mask)
    except ShardError as error:
        raise PreflightError(f"data.validation: {error}") from None
    if len(windows) == 0:
        raise PreflightError("data.validation is empty. Set it to null, or hold out more documents in the recipe.")
    for source, trained in zip(corpus.mixture.sources, corpus.windows, strict=True):
        if trained.shards.fingerprint == shards.fingerprint:  # whatever the packing, or the folder's name
            raise PreflightError(
                f"data.validation ({data.validation}) and {key_of(data, source.name)} ({trained.shards.folder}) are the same "
                f"shards: the validation loss would be of text that is trained on. Name shards held out of the training data "
                f"(shards.validation_fraction of a recipe makes some), or set data.validation to null."
            )
    check_same_tokenizer(corpus.windows[0], windows, "the training data", "data.validation")
    return windows


def _check_amount(corpus: Corpus, batches: batch_ramp.BatchSchedule, total_tokens: int) -> None:
    """Raise PreflightError when there is less than one batch, or less than the run wants and the epochs are limited."""
    length, per_step = corpus.sequence_length, batches.full.global_batch_tokens
    windows = sum(map(len, corpus.windows))
    if windows * length < per_step:
        raise PreflightError(
            f"the training data hold {corpus.tokens:,} tokens = {windows:,} windows of {length}, less than one global batch of "
            f"{per_step // length:,} windows ({per_step:,} tokens). Add text, or set batch.global_batch_tokens to at most "
            f"{windows * length:,}."
        )
    needed = batches.tokens_after(batches.steps(total_tokens))
    if corpus.end is not None and corpus.end < needed:
        last = batches.steps(corpus.end + 1) - 1  # the last step that is whole
        raise PreflightError(
            f"schedule.total_tokens = {total_tokens:,} needs {needed:,} tokens, but with their max_epochs all sources are used "
            f"up after {corpus.end:,}. Set schedule.total_tokens to at most {batches.tokens_after(last):,}, raise max_epochs, "
            f"or add sources."
        )


def _tokenizer(data: config.DataSection, corpus: Corpus) -> str | None:
    """The tokenizer's folder, path or URL, proven to be the shards' own; None where there is none beside them."""
    shards = corpus.windows[0].shards
    beside = join(str(shards.folder).rstrip("/").rsplit("/", 2)[0], "tokenizer") if is_remote(shards.folder) else None
    folder = data.tokenizer or beside or str(Path(shards.folder).resolve().parent.parent / "tokenizer")
    file = join(folder, "tokenizer.json")
    content = read_whole(file, shards.cache)
    if content is None:
        if data.tokenizer:
            raise PreflightError(f"data.tokenizer: {folder} holds no tokenizer.json.")
        return None
    _same_tokenizer(file, content, shards, "data.tokenizer")
    return str(folder) if is_remote(folder) else str(Path(folder).resolve())


def _same_tokenizer(file: Path | str, content: bytes, shards: TokenShards, key: str) -> None:
    found = fingerprint_of(parse_tokenizer(content, file))
    if found != shards.tokenizer_fingerprint:
        raise PreflightError(
            f"{key}: {file} is another tokenizer than the one that wrote the shards (fingerprint {found[:16]}, the "
            f"shards say {shards.tokenizer_fingerprint[:16]}): its token ids mean other text. Name the tokenizer of "
            f"these shards, or build shards with this one."
        )


def _check_model(settings: config.RunConfig, hf_config: Any, corpus: Corpus, layout: topology.Topology) -> str | None:
    """Raise ValueError for a model that cannot be trained so. Returns why its loss cannot be fused, None where it is."""
    shards = corpus.windows[0].shards
    build.check_fits(hf_config, shards.vocab_size, settings.data.sequence_length)
    model = build.skeleton(hf_config, settings.model.attention)
    build.check_causal(model)
    if layout.pipeline_stages > 1:
        families.anatomy(model)
        pipeline_probe.check(hf_config, settings.model.attention)
    if settings.data.document_mask:
        document_mask.check(model, settings.data.sequence_length)
    if layout.splits_replicas and settings.model.compile:
        raise PreflightError(
            "model.compile with parallel.tensor or parallel.sequence: blocks that exchange activations between ranks are not "
            "compiled. Set model.compile to false."
        )
    if layout.tensor > 1 and settings.parallel.zero_stage == 3 and settings.model.activation_checkpointing == "selective":
        raise PreflightError(
            'model.activation_checkpointing "selective" with parallel.tensor and parallel.zero_stage 3: DeepSpeed gathers the '
            "slices' parameters otherwise when a block is computed again, and PyTorch refuses that. Set "
            "activation_checkpointing to true, or zero_stage to 1 or 2."
        )
    if layout.tensor > 1:
        tensor_parallel.check(model, layout.tensor, layout.sequence)
    if layout.sequence > 1:
        lengths = {settings.data.sequence_length, *(length for _, length in corpus.lengths)}
        sequence_parallel.check(model, settings.model.attention, sorted(lengths), layout.sequence)
    if settings.model.init_from:
        build.Weights(settings.model.init_from, model).check(model)
        file = Path(settings.model.init_from) / "tokenizer.json"
        if file.is_file():
            _same_tokenizer(file, file.read_bytes(), shards, "model.init_from")
    return _whole_logits(settings.model, model)


def _whole_logits(section: config.ModelSection, model: Any) -> str | None:
    if section.fused_loss is False:
        return "model.fused_loss is false"
    reason = fused_loss.obstacle(model)
    if reason and section.fused_loss is True:
        raise PreflightError(f'model.fused_loss: {reason}. Set it to "auto": then all logits are made at once.')
    return reason


def _numerics(engine_settings: dict[str, Any]) -> dict[str, Any]:
    """What of DeepSpeed's own keys changes the numbers of a step, where it is given."""
    found = {key: engine_settings[key] for key in NUMERIC_KEYS if key in engine_settings}
    zero = engine_settings["zero_optimization"]
    found |= {key: zero[key] for key in ds_config.QUANTIZED if key in zero}
    return {"deepspeed": found} if found else {}


def _identity(
    settings: config.RunConfig,
    layout: topology.Topology,
    plan: batch.BatchPlan,
    precision: str,
    hf_config: Any,
    shards: TokenShards,
) -> dict[str, Any]:
    """What must stay the same for a resume to continue the same curve; see `order_before` for the data."""
    model = hf_config.to_diff_dict()
    model.pop("transformers_version", None)
    identity = {
        "model": model,
        "init_from": settings.model.init_from,
        "attention": settings.model.attention,
        "compile": settings.model.compile,
        "seed": settings.run.seed,
        "tokenizer_fingerprint": shards.tokenizer_fingerprint,
        "sequence_length": plan.sequence_length,
        "document_mask": settings.data.document_mask,
        "micro_batch_size": plan.micro_batch_size,
        "data_parallel_size": layout.data_parallel_size,
        "pipeline_stages": layout.pipeline_stages,
        "pipeline_partition": settings.parallel.pipeline_partition,
        "zero_stage": settings.parallel.zero_stage,
        "precision": precision,
        "optimizer": settings.optimizer.model_dump(mode="json", exclude={"max_skipped_steps"}),  # it changes no step
        **{axis: size for axis in ("tensor", "sequence") if (size := getattr(layout, axis)) > 1},
    }
    return json.loads(json.dumps(identity))  # as it will be read back: a configuration's numeric keys become text
