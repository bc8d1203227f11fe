"""A checkpoint, ready to be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from modeling_lion import LionImageToTextPipeline


def load_pipeline(model: str | None = None, device: str | None = None) -> LionImageToTextPipeline:
    """
    The image-to-text pipeline of a checkpoint.

    Args:
        model: Directory or Hub repo; the nano checkpoint of this package by default.
        device: Where to run; an accelerator by default, if there is one.
    """
    import torch
    from transformers import AutoProcessor
    from transformers.utils import logging

    from lion_multimodal import checkpoints
    from modeling_lion import LionForConditionalGeneration, LionImageToTextPipeline

    logging.disable_progress_bar()
    source = str(model or checkpoints.path("nano"))
    return LionImageToTextPipeline(
        model=LionForConditionalGeneration.from_pretrained(source),
        processor=AutoProcessor.from_pretrained(source),
        device=device or torch.accelerator.current_accelerator() or "cpu",
    )
