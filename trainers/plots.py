"""Images of a finished training: its losses, and what the routers learnt."""

import logging
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from configuration_lion import LEVELS
from modeling_lion.extras_lion import needs_extra
from trainers.files import write_whole


if TYPE_CHECKING:
    from matplotlib.figure import Figure


logger = logging.getLogger(__name__)

_ROUTER = re.compile(r"(encoder|decoder)\.block\.(\d+)\..*router_ratios")


def plot_losses(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> Path | None:
    """
    Draw training and evaluation losses over the steps.

    Args:
        log_history (`Sequence[Mapping]`): `trainer.state.log_history`.
        path (`str` or `Path`): PNG file to write.

    Returns:
        The file, or None when nothing was logged.
    """
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in log_history:
        for key, value in entry.items():
            if key == "loss" or (key.startswith("eval_") and key.endswith("loss")):
                curves.setdefault(key, []).append((entry["step"], value))
    if not curves:
        logger.warning("No loss was logged, so there is nothing to draw (see `logging_steps`).")
        return None

    figure, axes = _figure(6.4, 4.0)
    for name, points in sorted(curves.items(), key=lambda item: item[0] != "loss"):
        steps, losses = zip(*points)
        axes.plot(
            steps, losses, label="training" if name == "loss" else name, marker="o" if len(points) < 20 else None, ms=3
        )
    axes.set(xlabel="step", ylabel="loss per answer token")
    axes.grid(alpha=0.3)
    axes.legend()
    return _save(figure, path)


def router_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """
    How much each router lets through: `{"encoder.0": tensor of shape (num_adapters, num_tasks), ...}`, the mean over
    the model's width of the router's absolute ratios, layer by layer. Empty without routers.
    """
    return _router_weights(model.named_parameters())


def _router_weights(named: Iterable[tuple[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    found = {}
    for name, ratios in named:
        match = _ROUTER.search(name)
        if match:
            found[match[1], int(match[2])] = ratios.detach().float().abs().mean(dim=-1).cpu()
    ordered = sorted(found, key=lambda key: (key[0] == "decoder", key[1]))
    return {f"{stack}.{layer}": found[stack, layer] for stack, layer in ordered}


def plot_routers(weights: Mapping[str, torch.Tensor], path: str | os.PathLike) -> Path | None:
    """
    Draw what [`router_weights`] gave: for every layer (column) what each level (panel) takes of each adapter (row).

    Returns:
        The file, or None when there are no routers.
    """
    if not weights:
        return None
    values = torch.stack(list(weights.values()))  # (layers, adapters, levels)
    figure, panels = _figure(max(6.4, 0.22 * len(weights)), 3.6, rows=len(LEVELS))
    for level, axes in enumerate(panels):
        image = axes.imshow(
            values[:, :, level].T.numpy(), aspect="auto", cmap="viridis", vmin=0, vmax=float(values.max())
        )
        axes.set_yticks(range(len(LEVELS)), [f"{name} adapter" for name in LEVELS])
        axes.set_title(f"{LEVELS[level]} rows", fontsize=9)
        axes.set_xticks([])
    labels = list(weights)
    step = max(1, len(labels) // 24)
    panels[-1].set_xticks(range(0, len(labels), step), labels[::step], rotation=90, fontsize=7)
    figure.colorbar(image, ax=list(panels), label="mean |ratio|")
    return _save(figure, path)


def _figure(width: float, height: float, rows: int = 1) -> tuple["Figure", Any]:
    # The object-oriented interface: no global state, no display.
    with needs_extra("train", "A plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows)


def _save(figure: "Figure", path: str | os.PathLike) -> Path:
    path = Path(path)
    write_whole(path, lambda file: figure.savefig(file, dpi=150, format=path.suffix[1:]))
    logger.info("Drew %s.", path)
    return path
