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

    Raises:
        ValueError, OSError: there is no such device, or no whole checkpoint; option or file is named.
    """
    import torch
    from transformers.utils import logging

    from lion_multimodal import checkpoints
    from lion_multimodal.loading import check_device, check_weights, loading
    from modeling_lion import LionForConditionalGeneration, LionImageToTextPipeline
    from processing_lion import LionProcessor

    check_device(device, "--device")
    logging.disable_progress_bar()
    source = str(model or checkpoints.path("nano"))
    with loading(source):
        lion = LionForConditionalGeneration.from_pretrained(source)
        check_weights(lion, source)
        pipe = LionImageToTextPipeline(
            model=lion,
            processor=LionProcessor.from_pretrained(source),
            device=device or torch.accelerator.current_accelerator() or "cpu",
        )
        pipe.tagger  # noqa: B018 (loads it now, so that an error is one of loading)
    return pipe
