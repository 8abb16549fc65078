"""Head and loss by chunks of tokens: loss and gradients are those of whole logits, for stock models of every kind of head."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from transformers import AutoConfig

from trainer.model import build, fused_loss, layers
from trainer.model.fused_loss import DeferredLogits, chunked_nll_sum
from trainer.model.loss import IGNORED, compiled_nll_sum, nll_sum

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 96}
HEADS = {
    "gpt2, tied": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 96},
    "llama": {"model_type": "llama", **TINY},
    "gpt_neox": {"model_type": "gpt_neox", **TINY},
    "phi, a bias": {"model_type": "phi", **TINY},
    "gemma2, a cap": {"model_type": "gemma2", **TINY, "head_dim": 8, "final_logit_softcapping": 2.0},
    "cohere, a scale": {"model_type": "cohere", **TINY, "logit_scale": 0.3},
    "granite, a divisor": {"model_type": "granite", **TINY, "logits_scaling": 3.0},
    "opt, a decoder inside": {"model_type": "opt", **TINY, "ffn_dim": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
}
FINISHED = {"gemma2, a cap", "cohere, a scale", "granite, a divisor"}


def model_of(values: dict) -> nn.Module:
    values = dict(values)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, key, None)
    model = build.skeleton(config, "eager")
    list(build.materialise(model, dict(build.chunks(model)), "cpu", torch.float32, seed=3))
    model.tie_weights()
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms, too, and logits that caps and scales change
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


def windows(rows: int = 3, length: int = 37) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(96, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    targets = tokens[:, 1:].clone()
    targets[0, 5:9] = targets[-1, -3:] = IGNORED
    return tokens[:, :-1], targets


def gradients(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


CHUNK_TOKENS = fused_loss.chunk_tokens


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(fused_loss, "chunk_tokens", lambda *_: 16)


@pytest.mark.parametrize("name", HEADS)
def test_equals_whole_logits(name):
    model = model_of(HEADS[name])
    inputs, targets = windows()
    reference = nll_sum(model(input_ids=inputs, use_cache=False).logits, targets)
    expected = gradients(model, reference)
    assert (fused_loss.after_head(model) is not None) == (name in FINISHED)
    fused_loss.install(model, fused=True)
    outputs = model(input_ids=inputs, targets=targets, use_cache=False)
    assert outputs.logits.numel() == 0 and outputs.loss.dtype == torch.float32
    assert outputs.loss.item() == pytest.approx(reference.item(), rel=1e-6)
    for key, value in gradients(model, outputs.loss).items():
        assert (value - expected[key]).norm() <= 1e-5 * expected[key].norm(), key
    with torch.no_grad():
        assert model(input_ids=inputs, targets=targets).loss.item() == pytest.approx(reference.item(), rel=1e-6)
        assert model(input_ids=inputs).logits.shape == (3, 37, 96)


@pytest.mark.parametrize("name", HEADS)
def test_a_pipelines_row_equals_whole_logits(name):
    model = model_of(HEADS[name])
    inputs, targets = windows()
    reference = nll_sum(model(input_ids=inputs, use_cache=False).logits, targets)
    expected = gradients(model, reference)
    row = layers.row(model)
    row[-1].fused = True
    logits = layers.run(row, inputs)
    assert isinstance(logits, DeferredLogits)
    loss = logits.nll_sum(targets)
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)
    for key, value in gradients(model, loss).items():
        assert (value - expected[key]).norm() <= 1e-5 * expected[key].norm(), key


def test_nothing_to_learn():
    model = model_of(HEADS["llama"])
    fused_loss.install(model, fused=True)
    inputs, targets = windows()
    loss = model(input_ids=inputs, targets=torch.full_like(targets, IGNORED), use_cache=False).loss
    assert loss.item() == 0.0
    assert all(not value.any() for value in gradients(model, loss).values())


def test_unfused_has_the_same_interface():
    model = model_of(HEADS["cohere, a scale"])
    inputs, targets = windows()
    expected = nll_sum(model(input_ids=inputs).logits, targets)
    fused_loss.install(model, fused=False)
    assert torch.equal(model(input_ids=inputs, targets=targets).loss, expected)


def test_a_skeleton_tells_and_keeps_its_modules():
    config = AutoConfig.for_model(
        "gemma2", **{key: value for key, value in HEADS["gemma2, a cap"].items() if key != "model_type"}
    )
    skeleton = build.skeleton(config, "eager")
    before = list(skeleton.named_modules())
    finish = fused_loss.after_head(skeleton)
    logits = torch.randn(5, 96)
    assert torch.equal(finish(logits), torch.tanh(logits / 2.0) * 2.0)
    assert [(name, id(module)) for name, module in skeleton.named_modules()] == [(name, id(module)) for name, module in before]


def test_an_unknown_head_is_named():
    config = AutoConfig.for_model("bert", **TINY, is_decoder=True)
    assert "after its head is not known" in fused_loss.obstacle(build.skeleton(config))


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 40),
    chunk=st.integers(1, 50),
    seed=st.integers(0, 1000),
    trained=st.booleans(),
    upstream=st.floats(0.01, 10),
)
def test_any_chunk_gives_the_same(tokens, chunk, seed, trained, upstream):
    torch.manual_seed(seed)
    head = nn.Linear(8, 12).double()
    head.weight.requires_grad_(trained)
    hidden = torch.randn(1, tokens, 8, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(-1, 12, (1, tokens))
    targets[targets < 0] = IGNORED
    reference, other = copy.deepcopy(head), hidden.detach().clone().requires_grad_()
    expected = nll_sum(reference(other), targets)
    (expected * upstream).backward()
    loss = chunked_nll_sum(head, list(head.parameters()), hidden, targets, chunk)
    (loss * upstream).backward()
    torch.testing.assert_close(loss, expected)
    pairs = [(hidden, other), (head.bias, reference.bias)] + ([(head.weight, reference.weight)] if trained else [])
    for got, wanted in pairs:
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-5, atol=1e-6)
    assert trained or head.weight.grad is None


def test_bfloat16_is_as_exact_as_whole_logits():
    """The loss to float32's last bits, unlike torch's linear_cross_entropy; gradients as those of so many micro-batches."""
    torch.manual_seed(0)
    hidden, targets = torch.randn(1, 512, 64).bfloat16(), torch.randint(2000, (1, 512))
    head = nn.Linear(64, 2000, bias=False).bfloat16()
    whole, by_chunks, exact = (
        hidden.clone().to(dtype).requires_grad_() for dtype in (torch.bfloat16, torch.bfloat16, torch.float64)
    )
    heads = [head, copy.deepcopy(head), copy.deepcopy(head).double()]
    losses = [
        nll_sum(heads[0](whole), targets),
        chunked_nll_sum(heads[1], [heads[1].weight], by_chunks, targets, 64),
        functional.cross_entropy(heads[2](exact)[0], targets[0], reduction="sum"),
    ]
    for loss in losses:
        loss.backward()
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-6)
    for first, second, right in ((whole, by_chunks, exact), *([head.weight for head in heads],)):
        error, ours = ((one.grad.double() - right.grad).norm() for one in (first, second))
        assert ours <= 1.5 * error


def test_a_compiled_loss_is_one_piece_of_code_for_any_number_of_tokens():
    torch.manual_seed(0)
    head, hidden = nn.Linear(8, 96, bias=False).bfloat16(), torch.randn(1, 150, 8).bfloat16()
    targets = torch.randint(-1, 96, (1, 150))
    targets[targets < 0] = IGNORED
    loss, graphs = compiled_nll_sum(), torch._dynamo.utils.counters["stats"]
    before, results = graphs["unique_graphs"], []
    for of_logits in (nll_sum, loss):
        states = hidden.clone().requires_grad_()
        nll = chunked_nll_sum(head, [head.weight], states, targets, 64, of_logits)  # chunks of 64, 64 and 22
        nll.backward()
        results.append((nll, states.grad, head.weight.grad))
        head.weight.grad = None
    for got, wanted in zip(*results[::-1], strict=True):
        assert got.dtype == wanted.dtype and (got - wanted).norm() <= 4e-3 * wanted.norm()
    assert results[1][0].item() == pytest.approx(results[0][0].item(), rel=1e-6)
    assert graphs["unique_graphs"] == before + 1


def test_a_compiled_loss_takes_larger_chunks_on_accelerators():
    gpu, vocabulary = torch.device("cuda"), 50_304
    sizes = [CHUNK_TOKENS(vocabulary, *where) for where in ((gpu, nll_sum), (gpu, lambda *_: None), (torch.device("cpu"),))]
    assert sizes == [1280, 5312, 320] and all(size % 64 == 0 for size in sizes)
