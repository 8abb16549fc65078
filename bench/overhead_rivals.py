"""The rivals of bench/overhead.py: loops as DeepSpeed's and Hugging Face's own pages write them, on the same shards.

Each calls `step_done` after every optimizer step, and never ends by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deepspeed
import torch
import transformers
from deepspeed.accelerator import get_accelerator
from deepspeed.pipe import LayerSpec, PipelineModule, TiedLayerSpec
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from data_prep.shards import Windows
from trainer.devices import DTYPES
from trainer.preflight import RunPlan


class WindowDataset(Dataset):
    """The shards' full windows as the rivals take them; their models shift the labels themselves."""

    def __init__(self, windows: Windows):
        self._windows = windows

    def __len__(self) -> int:
        return self._windows.shards.tokens // self._windows.sequence_length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        length = self._windows.sequence_length
        tokens = torch.from_numpy(self._windows.shards.read(index * length, (index + 1) * length).astype("int64"))
        return {"input_ids": tokens, "labels": tokens}


def stock_model(plan: RunPlan) -> torch.nn.Module:
    """The model as Hugging Face users make it."""
    config = copy.deepcopy(plan.hf_config)
    config.use_cache = False
    attention = plan.config.model.attention
    with torch.device(get_accelerator().current_device_name()):
        return transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, dtype=DTYPES[plan.precision]
        )


def optimizer_of(plan: RunPlan) -> dict[str, Any]:
    """DeepSpeed's own optimizer section with the run file's numbers."""
    section = plan.config.optimizer
    values = {"lr": section.learning_rate, "betas": list(section.betas), "eps": section.eps}
    values |= {"weight_decay": section.weight_decay, "torch_adam": True}
    if torch.cuda.is_available():
        values["fused"] = True
    return {"type": "AdamW", "params": values}


def bare_loop(plan: RunPlan, step_done: Callable[[], None], compiled: bool = False) -> None:
    """The loop of DeepSpeed's getting-started page over the stock model."""
    model = stock_model(plan)
    if compiled:
        model.compile()
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={**copy.deepcopy(plan.ds_config), "optimizer": optimizer_of(plan)},
    )
    dataset = WindowDataset(plan.corpus.windows[0])
    micro = plan.batch.micro_batch_size
    engine.train()
    micro_batches = step = 0
    for epoch in range(10**9):
        sampler = DistributedSampler(dataset, shuffle=True, drop_last=True)
        sampler.set_epoch(epoch)
        for batch in DataLoader(dataset, batch_size=micro, sampler=sampler, drop_last=True):
            loss = engine(**{key: value.to(engine.device) for key, value in batch.items()}).loss
            engine.backward(loss)
            engine.step()
            micro_batches += 1
            if micro_batches % plan.batch.gradient_accumulation_steps:
                continue
            step += 1
            if step % plan.config.monitor.log_every == 0:
                print(step, loss.item())
            step_done()


class Embedding(torch.nn.Embedding):
    """The first layer, and once more the last where the two are tied."""


class Block(torch.nn.Module):
    """A stock block with the rotary positions that Hugging Face's model would hand to it."""

    def __init__(self, model: torch.nn.Module, index: int):
        super().__init__()
        self.block, self.rotary = model.model.layers[index], model.model.rotary_emb

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(hidden.size(1), device=hidden.device).unsqueeze(0)
        return self.block(hidden, position_ids=positions, position_embeddings=self.rotary(hidden, position_ids=positions))


def shifted_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss of the next tokens."""
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


def pipeline_module(plan: RunPlan) -> PipelineModule:
    """A Llama-style model as DeepSpeed's pipeline tutorial has it: a list of layers."""
    model, config = stock_model(plan), plan.hf_config
    assert config.model_type == "llama", "the bare pipeline is written for Llama-style models"
    sizes, dtype = (config.vocab_size, config.hidden_size), DTYPES[plan.precision]
    blocks = [Block(model, index) for index in range(config.num_hidden_layers)]
    if config.tie_word_embeddings:

        def head(embedding: Embedding, hidden: torch.Tensor) -> torch.Tensor:
            return functional.linear(hidden, embedding.weight)

        first = TiedLayerSpec("embedding", Embedding, *sizes, dtype=dtype)
        last = TiedLayerSpec("embedding", Embedding, *sizes, dtype=dtype, forward_fn=head)
    else:
        first, last = LayerSpec(Embedding, *sizes, dtype=dtype), model.lm_head
    layers = [first, *blocks, model.model.norm, last]
    return PipelineModule(layers, num_stages=plan.topology.pipeline_stages, loss_fn=shifted_loss, partition_method="parameters")


def bare_pipeline_loop(plan: RunPlan, step_done: Callable[[], None]) -> None:
    """The loop of DeepSpeed's pipeline tutorial."""
    module = pipeline_module(plan)
    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=[p for p in module.parameters() if p.requires_grad],
        config={**copy.deepcopy(plan.ds_config), "optimizer": optimizer_of(plan)},
    )
    dataset = WindowDataset(plan.corpus.windows[0])
    replicas, replica = engine.grid.get_data_parallel_world_size(), engine.grid.get_data_parallel_id()

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for epoch in range(10**9):
            sampler = DistributedSampler(dataset, replicas, replica, shuffle=True, drop_last=True)
            sampler.set_epoch(epoch)
            for batch in DataLoader(dataset, batch_size=plan.batch.micro_batch_size, sampler=sampler, drop_last=True):
                yield batch["input_ids"], batch["labels"]

    endless, step = batches(), 0
    while True:
        loss = engine.train_batch(data_iter=endless)
        step += 1
        if step % plan.config.monitor.log_every == 0:
            print(step, loss.item())
        step_done()


def hugging_face_loop(plan: RunPlan, step_done: Callable[[], None], folder: Path, compiled: bool = False) -> None:
    """transformers.Trainer with the same DeepSpeed configuration."""
    section, monitor = plan.config.optimizer, plan.config.monitor

    class Count(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            step_done()

    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "hf"),
        deepspeed={**copy.deepcopy(plan.ds_config), "optimizer": optimizer_of(plan)},
        per_device_train_batch_size=plan.batch.micro_batch_size,
        gradient_accumulation_steps=plan.batch.gradient_accumulation_steps,
        learning_rate=section.learning_rate,
        weight_decay=section.weight_decay,
        adam_beta1=section.betas[0],
        adam_beta2=section.betas[1],
        adam_epsilon=section.eps,
        max_grad_norm=section.gradient_clipping,
        lr_scheduler_type="constant",
        bf16=plan.precision == "bf16",
        fp16=plan.precision == "fp16",
        max_steps=10**9,
        logging_steps=monitor.log_every,
        report_to=["tensorboard"] if monitor.tensorboard else [],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=get_accelerator().device_name() == "cpu",
        dataloader_drop_last=True,
        torch_compile=compiled,
    )
    dataset = WindowDataset(plan.corpus.windows[0])
    transformers.Trainer(stock_model(plan), arguments, train_dataset=dataset, callbacks=[Count()]).train()
