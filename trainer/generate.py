"""Text from an exported model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def generate(folder: Path, prompts: list[str], max_new_tokens: int, temperature: float, top_k: int, seed: int) -> Iterator[str]:
    """Yield prompt and continuation for each prompt; an empty prompt starts from the end-of-document token.

    Raises ValueError for a folder without an exported model, and for a prompt that leaves no room in the window.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}: no exported model there. Export one first: python -m trainer export RUN_FOLDER --output {folder}"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    torch.manual_seed(seed)
    sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k} if temperature > 0 else {"do_sample": False}
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id]
        window = getattr(model.config, "max_position_embeddings", None)
        room = max_new_tokens if window is None else min(max_new_tokens, window - len(ids))
        if room < 1:
            raise ValueError(f"the prompt has {len(ids)} tokens and the model's window {window}: no room is left.")
        inputs = torch.tensor([ids], device=device)
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=room,
            pad_token_id=tokenizer.eos_token_id,
            **sampling,
        )
        yield prompt + tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)
