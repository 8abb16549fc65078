"""Learning rate as a pure function of the tokens consumed: batch size, accumulation and resumes do not change it."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from strict_json import StrictModel

WSD_DECAY_SHARE = 0.2
"""Part of the run that WSD decays over when not told: 10 to 20% is enough (arXiv 2404.06395, 2405.18392)."""


class ScheduleSection(StrictModel):
    """How long the run is and how the learning rate goes, both in tokens."""

    total_tokens: int = Field(ge=1)
    """The run ends with the first optimizer step that has consumed at least this many tokens."""
    type: Literal["cosine", "wsd", "constant"] = "cosine"
    """cosine: half a cosine down to the minimum (GPT-3, arXiv 2005.14165); wsd: warmup, stable, decay (MiniCPM, arXiv
    2404.06395); constant: no decay. All warm up linearly from 0."""
    warmup_tokens: int = Field(default=0, ge=0)
    """Length of the linear warmup; GPT-3: 375 million."""
    decay_tokens: int | None = Field(default=None, ge=1)
    """cosine: tokens, warmup included, after which the minimum is reached and held (GPT-3: 260 billion); null:
    total_tokens. wsd: length of the decay at the end of the run; null: a fifth of total_tokens."""
    min_lr_ratio: float = Field(default=0.1, ge=0, le=1)
    """Lowest rate after the warmup, as a share of the peak; GPT-3: 0.1."""
    decay_shape: Literal["linear", "1-sqrt"] = "1-sqrt"
    """Shape of the wsd decay; 1-sqrt was best of those compared in arXiv 2405.18392."""

    @model_validator(mode="after")
    def _lengths_fit(self) -> ScheduleSection:
        if self.warmup_tokens >= self.total_tokens:
            raise ValueError(
                f"warmup_tokens {self.warmup_tokens} must be less than total_tokens {self.total_tokens}: a shorter run needs a "
                f"shorter warmup, too"
            )
        if self.type == "cosine" and self.decay_tokens is not None and self.decay_tokens <= self.warmup_tokens:
            raise ValueError(
                f"cosine decay_tokens {self.decay_tokens} include the warmup and must exceed warmup_tokens {self.warmup_tokens}"
            )
        if self.type == "wsd" and self.warmup_tokens + self.wsd_decay_tokens > self.total_tokens:
            raise ValueError(
                f"warmup_tokens {self.warmup_tokens} and decay_tokens {self.wsd_decay_tokens} together exceed "
                f"total_tokens {self.total_tokens}"
            )
        if self.type == "constant" and self.decay_tokens is not None:
            raise ValueError('decay_tokens has no meaning with type "constant": remove it')
        return self

    @property
    def wsd_decay_tokens(self) -> int:
        """Length of the wsd decay, tokens."""
        return self.decay_tokens or max(1, int(self.total_tokens * WSD_DECAY_SHARE))


def learning_rate(section: ScheduleSection, peak: float, tokens: int) -> float:
    """The rate of the optimizer step that ends when `tokens` tokens have been consumed, in [0, peak]."""
    if tokens < section.warmup_tokens:
        return peak * tokens / section.warmup_tokens
    lowest = peak * section.min_lr_ratio
    return lowest + (peak - lowest) * _height(section, tokens)


def _height(section: ScheduleSection, tokens: int) -> float:
    """Position between the minimum (0) and the peak (1) after the warmup."""
    if section.type == "constant":
        return 1.0
    if section.type == "cosine":
        end = section.decay_tokens or section.total_tokens
        progress = min(1.0, (tokens - section.warmup_tokens) / (end - section.warmup_tokens))
        return 0.5 * (1.0 + math.cos(math.pi * progress))
    decay = section.wsd_decay_tokens
    progress = min(1.0, max(0.0, (tokens - (section.total_tokens - decay)) / decay))
    return 1.0 - (math.sqrt(progress) if section.decay_shape == "1-sqrt" else progress)
