"""A run's curves as one picture."""

from __future__ import annotations

from pathlib import Path

from trainer.metrics import METRICS_FILE, read_metrics


def plot(run: Path, output: Path) -> str:
    """Draw training and validation loss, learning rate and gradient norm over tokens into a PNG; returns a summary line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = read_metrics(run / METRICS_FILE)
    training = [row for row in rows if row.get("loss") is not None]
    held_out = [row for row in rows if "validation_loss" in row]
    if not training:
        raise ValueError(f"{run / METRICS_FILE}: no logged steps yet.")
    figure, (losses, rates) = pyplot.subplots(2, 1, figsize=(8, 7), sharex=True, height_ratios=(2, 1), constrained_layout=True)
    millions = [row["tokens"] / 1e6 for row in training]
    losses.plot(millions, [row["loss"] for row in training], label="training", linewidth=1.2)
    if held_out:
        tokens = [row["tokens"] / 1e6 for row in held_out]
        losses.plot(tokens, [row["validation_loss"] for row in held_out], "o-", label="validation", markersize=4)
    losses.set(ylabel="loss (nats per token)", title=f"{run.name}: {training[-1]['step']} steps")
    losses.legend()
    rates.plot(millions, [row["learning_rate"] for row in training], color="tab:green")
    rates.set(xlabel="tokens (millions)", ylabel="learning rate")
    norms = [row["grad_norm"] for row in training]
    if all(norm is not None for norm in norms):
        right = rates.twinx()
        right.plot(millions, norms, color="tab:gray", linewidth=0.8, alpha=0.7)
        right.set_ylabel("gradient norm (gray)")
    for axes in (losses, rates):
        axes.grid(alpha=0.3)
    figure.savefig(output, dpi=120)
    pyplot.close(figure)
    return f"loss {training[0]['loss']:.3f} -> {training[-1]['loss']:.3f} over {training[-1]['tokens']:,} tokens"
