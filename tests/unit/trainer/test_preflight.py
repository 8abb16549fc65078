"""Each mistake is refused before anything starts, with its numbers and the way out; nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from data_prep.shards import ShardWriter, write_manifest
from tests.corpora import write_shards
from tests.models import FAMILIES, run_file
from trainer import run_folder
from trainer.preflight import prepare
from trainer.state import TrainState


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("corpus") / "train")


class Run:
    """A run file in a temporary folder, and what `prepare` says to it."""

    def __init__(self, tmp_path: Path, train: Path):
        self.folder, self.file = tmp_path / "run", tmp_path / "run.json"
        self.config = run_file(self.folder, train)

    def prepare(self, world_size: int = 2):
        self.file.write_text(json.dumps(self.config))
        return prepare(self.file, [], world_size)

    def refused(self, *parts: str, world_size: int = 2) -> None:
        before = sorted(self.folder.rglob("*"))
        with pytest.raises(ValueError) as refusal:
            self.prepare(world_size)
        for part in parts:
            assert part in str(refusal.value)
        assert sorted(self.folder.rglob("*")) == before


@pytest.fixture
def run(tmp_path, shards) -> Run:
    return Run(tmp_path, shards)


def test_a_good_run_file_is_decided_and_writes_nothing(run):
    plan = run.prepare()
    assert (plan.batch.windows_per_step, plan.total_steps, plan.precision) == (16, 20, "fp32")
    assert plan.hf_config.vocab_size == 320  # 300 padded to a multiple of 64
    assert plan.start == TrainState() and plan.resume_from is None
    assert not run.folder.exists()


def test_ranks_that_share_a_window_are_one_in_the_batch(run):
    run.config["parallel"] = {"zero_stage": 2, "tensor": 2, "sequence": 2}
    plan = run.prepare(world_size=8)
    assert (plan.batch.data_parallel_size, plan.batch.windows_per_step, plan.ds_config["train_batch_size"]) == (2, 16, 16)
    assert "8 = 1 pipeline stages x 2 data parallel x 2 parts of a window x 2 slices of a matrix, ZeRO-2" in plan.describe()
    assert {"tensor": 2, "sequence": 2}.items() <= plan.record["identity"].items()


def test_a_run_in_parts_is_not_continued_otherwise(run):
    run.config["parallel"] = {"sequence": 2}
    plan = run.prepare(world_size=4)
    run_folder.take(plan.folder, plan.record).close()
    run.config["parallel"] = {"tensor": 2}
    run.refused("sequence: 2 in the run folder, absent in this run file", "tensor: absent", world_size=4)


def test_what_cannot_be_split_is_refused_before_the_start(run):
    run.config["parallel"] = {"sequence": 8}
    run.refused("4 attention heads cannot be shared by 8 ranks", world_size=8)
    run.config["data"]["curriculum"] = [{"from_tokens": 0, "sequence_length": 2}]
    run.config["parallel"] = {"sequence": 4}
    run.refused("windows of 2 tokens cannot be cut into 4 equal parts. Set the length to 4", world_size=4)
    run.config["parallel"] = {"tensor": 4}
    run.refused("4 heads and 2 key heads cannot be cut into 4 slices", world_size=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_effective_config_is_a_run_file_of_the_same_run(run, family):
    run.config["model"] = {"config": {**FAMILIES[family], "vocab_size": "auto"}}
    plan = run.prepare()
    run.config = plan.effective_config()
    assert run.config["batch"]["gradient_accumulation_steps"] == 4
    assert run.prepare().record == plan.record


def test_no_manifest(run, tmp_path):
    run.config["data"]["train"] = str(tmp_path / "nowhere")
    run.refused("data.train", "no such folder", "data_prep run")


def test_missing_shard(run, tmp_path):
    folder = write_shards(tmp_path / "corpus")
    (folder / "shard-00001.tokens").unlink()
    run.config["data"]["train"] = str(folder)
    run.refused("1 of 2 shards are missing", "shard-00001.tokens")


def test_half_written_shard(run, tmp_path):
    folder = write_shards(tmp_path / "corpus")
    shard = folder / "shard-00000.tokens"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    run.config["data"]["train"] = str(folder)
    run.refused("truncated or half-written", f"{len(whole) // 2:,} bytes", f"{len(whole):,}")


def test_validation_shards_of_another_tokenizer(run, tmp_path):
    other = write_shards(tmp_path / "validation", fingerprint="cd" * 32)
    run.config["data"]["validation"] = str(other)
    run.refused("another tokenizer", "cdcdcd", "ababab")


def test_named_tokenizer_is_another(run, tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    run.config["data"]["tokenizer"] = str(folder)
    run.refused("data.tokenizer", "another tokenizer", "ab" * 8)


def test_vocabulary_larger_than_the_models(run):
    run.config["model"]["config"]["vocab_size"] = 256
    run.refused("300 token ids", "vocab_size is 256", '"auto"')


def test_window_longer_than_the_positions(run):
    run.config["model"]["config"]["max_position_embeddings"] = 16
    run.refused("data.sequence_length is 32", "16 positions")


def test_more_stages_than_layers(run):
    run.config["parallel"] = {"pipeline_stages": 8}
    run.refused("pipeline_stages is 8", "4 layers", world_size=8)


def test_ranks_that_make_no_stages(run):
    run.config["parallel"] = {"pipeline_stages": 2}
    run.refused("3 ranks cannot form 2 pipeline stages", "2 or 4", world_size=3)


def test_pipeline_with_zero_3(run):
    run.config["parallel"] = {"pipeline_stages": 2, "zero_stage": 3}
    run.refused("zero_stage 3", "ZeRO 0 or 1 only")


def test_models_that_the_pipeline_cannot_run_exactly(run):
    run.config["parallel"] = {"pipeline_stages": 2}
    sizes = {"vocab_size": "auto", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    positions = {"max_position_embeddings": 64, "is_decoder": True}
    run.config["model"]["config"] = {"model_type": "roberta", **sizes, **positions}
    run.refused('"roberta" cannot run in pipeline stages', "belong to no stage", "pipeline_stages to 1", "zero_stage to 1")
    run.config["model"]["config"] = {"model_type": "opt", **sizes, "ffn_dim": 64, "word_embed_proj_dim": 64, "layerdrop": 0.1}
    run.refused('"opt" cannot run in pipeline stages', "it skips blocks at random")
    run.config["model"]["config"]["layerdrop"] = 0.0
    run.prepare()


def test_batch_that_does_not_divide(run):
    run.config["batch"] = {"global_batch_tokens": 500}
    run.refused("500 is not a multiple of 64", "448 or 512")


def test_corpus_smaller_than_a_batch(run):
    run.config["batch"] = {"global_batch_tokens": 2**20}
    run.refused("less than one global batch of 32,768 windows", "batch.global_batch_tokens to at most")


def test_empty_corpus(run, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    with ShardWriter(folder / "shard-00000.tokens", 300, eod_id=0, tokenizer_fingerprint="ab" * 32) as writer:
        writer.add(np.empty(0, np.int64), 0)  # an empty document: its end alone, with nothing to predict
    write_manifest(folder, ["shard-00000.tokens"])
    run.config["data"]["train"] = str(folder)
    run.refused("data.train", "holds 1 tokens: not one to predict")


def test_weights_of_another_model(run, tmp_path):
    config = AutoConfig.for_model(**{**FAMILIES["llama"], "vocab_size": 320, "max_position_embeddings": 32})
    config.hidden_size = 32
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    run.config["model"]["init_from"] = str(tmp_path / "other")
    run.refused("holds another model than model.config", "differ in shape")
    run.config["model"]["init_from"] = str(tmp_path)
    run.refused("no model.safetensors")


def test_misspelt_keys_are_reported_together(run):
    run.config["optimizer"]["learning_rte"] = 1
    run.config["deepspeed"] = {"zero_optimisation": {"stage": 1}}
    run.refused('Did you mean "learning_rate"?')
    del run.config["optimizer"]["learning_rte"]
    run.refused('Did you mean "zero_optimization"?')


def start(run: Run, step: int) -> Path:
    """Make the run folder as a run leaves it at `step`."""
    plan = run.prepare()
    run_folder.take(plan.folder, plan.record).close()
    checkpoint = plan.folder / run_folder.CHECKPOINTS / run_folder.checkpoint_name(step)
    checkpoint.mkdir()
    state = TrainState(step=step, tokens_seen=512 * step)
    record = {"state": state.to_json(), "probe": None, "order": plan.order_before(state), "chain": None}
    (checkpoint / run_folder.STATE_FILE).write_text(json.dumps(record))
    return checkpoint


def test_a_run_is_resumed_where_it_was(run):
    checkpoint = start(run, 7)
    unfinished = checkpoint.with_name(run_folder.PARTIAL_PREFIX + "step-00000009")
    unfinished.mkdir()
    plan = run.prepare()
    assert plan.resume_from == checkpoint
    assert plan.start == TrainState(step=7, tokens_seen=3584)


def test_how_many_steps_may_be_skipped_can_change_on_a_resume(run):
    checkpoint = start(run, 7)
    run.config["optimizer"]["max_skipped_steps"] = 50
    assert run.prepare().resume_from == checkpoint
    run.config["optimizer"]["weight_decay"] = 0.2
    run.refused("optimizer.weight_decay")


def test_what_the_past_was_is_told_by_the_sources_names(run, tmp_path):
    other = write_shards(tmp_path / "other", seed=4)
    sources = {
        name: {"shards": str(folder), "weight": 1} for name, folder in (("a", run.config["data"]["train"]), ("b", other))
    }
    run.config["data"] = {"sources": sources, "sequence_length": 32}
    start(run, 7)
    sources["a"]["weight"] = 3
    run.refused("from token 0 on: windows of a ", "% in the run, a 7", "b 2", "% by this run file")


def test_a_state_that_is_no_step_of_its_batches(run):
    checkpoint = start(run, 7)
    file = checkpoint / run_folder.STATE_FILE
    file.write_text(file.read_text().replace('"tokens_seen": 3584', '"tokens_seen": 3072'))
    run.refused("7 steps of these batches are 3,584 tokens", "says 3,072")


def test_run_folder_of_another_run(run):
    start(run, 7)
    run.config["run"]["seed"] = 2
    run.config["model"]["config"]["num_hidden_layers"] = 3
    run.refused("holds another run", "model.num_hidden_layers: 4 in the run folder, 3 in this run file", "seed: 1")


def test_checkpoint_of_another_world(run):
    start(run, 7)
    run.refused("data_parallel_size: 2 in the run folder, 4 in this run file", world_size=4)


def test_run_folder_that_is_no_run(run):
    run.folder.mkdir()
    (run.folder / "thesis.txt").write_text("important")
    run.refused("holds no run of moenda", "choose another run.folder")


@pytest.mark.parametrize(
    "text",
    [
        '{"state": {"step"',
        '{"state": {"step": "7", "tokens_seen": 1}}',
        '{"state": {"step": 3, "tokens_seen": 1}}',
    ],
)
def test_damaged_checkpoint_state(run, text):
    checkpoint = start(run, 7)
    (checkpoint / run_folder.STATE_FILE).write_text(text)
    run.refused("not a readable checkpoint")


@pytest.mark.parametrize("text", ["{}", "[]", "?"])
def test_damaged_run_record(run, text):
    start(run, 7)
    (run.folder / run_folder.RUN_FILE).write_text(text)
    run.refused("not a run folder of moenda")


def test_run_folder_that_is_a_file(run):
    run.folder.write_text("x")
    run.refused("is a file")


def test_an_encoder_is_no_language_model(run):
    config = {"model_type": "bert", "vocab_size": "auto", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    run.config["model"] = {"config": config, "attention": "eager"}
    run.refused('"bert" model with is_decoder false', '"is_decoder": true')
    config["is_decoder"] = True
    run.prepare()


def test_numeric_keys_in_a_model_configuration_survive_a_resume(run):
    run.config["model"]["config"]["id2label"] = {"0": "a", "1": "b", "2": "c"}
    start(run, 7)
    assert run.prepare().start.step == 7


def test_damaged_weights(run, tmp_path):
    config = AutoConfig.for_model(**{**FAMILIES["llama"], "vocab_size": 320, "max_position_embeddings": 32})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    run.config["model"] = {"init_from": str(tmp_path / "model")}
    run.prepare()
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    run.refused("model.safetensors: damaged")
    (tmp_path / "model" / "model.safetensors.index.json").write_text("{}")
    run.refused("not an index of weights")


def test_a_folder_in_use_is_refused_and_free_again_after(run):
    plan = run.prepare()
    with run_folder.take(plan.folder, plan.record), pytest.raises(ValueError, match="is in use by process"):
        run_folder.take(plan.folder, plan.record)
    run_folder.take(plan.folder, plan.record).close()


def test_going_on_clears_what_a_killed_save_left(run):
    checkpoint = start(run, 7)
    partial = checkpoint.with_name(run_folder.PARTIAL_PREFIX + "step-00000008")
    partial.mkdir()
    (checkpoint.parent / "step-00000009").mkdir()  # without state.json: not a checkpoint
    plan = run.prepare()
    run_folder.make_newest(plan.folder, plan.start.step)
    assert not partial.exists()
    assert run_folder.checkpoints_in(checkpoint.parent) == [checkpoint]
