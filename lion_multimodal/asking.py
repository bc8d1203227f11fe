"""A checkpoint, ready to be asked."""

from __future__ import annotations

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from modeling_lion import LionImageToTextPipeline


def base_of_adapter(adapter: str, model: str | None = None) -> str:
    """
    The base of a PEFT adapter: `model`, or the one that the adapter names, or else the nano of this package.

    Raises:
        ValueError: there is no adapter at that place.
    """
    from peft import PeftConfig

    from lion_multimodal import checkpoints
    from modeling_lion import peft_lion  # noqa: F401 (makes LION_ADAPTER known to PEFT)

    try:
        named = PeftConfig.from_pretrained(adapter).base_model_name_or_path
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{adapter} is no PEFT adapter: {error}") from error
    return str(model or named or checkpoints.path("nano"))


def load_pipeline(
    model: str | None = None, device: str | None = None, adapter: str | None = None, dtype: str | None = None
) -> LionImageToTextPipeline:
    """
    The image-to-text pipeline of a checkpoint.

    Args:
        model: Directory or Hub repo; the nano checkpoint of this package by default.
        device: Where to run; an accelerator by default, if there is one.
        adapter: A PEFT adapter on top of it, as `lion finetune` writes it.
        dtype: `"auto"` (that of the checkpoint's files), `"float32"`, `"bfloat16"` or `"float16"`; what transformers
            does by itself, by default. The tagger always runs in float32.

    Raises:
        ValueError, OSError: there is no such device, or no whole checkpoint; option or file is named.
    """
    from transformers.utils import logging

    from lion_multimodal import checkpoints
    from lion_multimodal.loading import check_device, check_processor, check_weights, loading
    from modeling_lion import LionForConditionalGeneration, LionImageToTextPipeline
    from modeling_lion.device_lion import default_device
    from processing_lion import LionProcessor

    check_device(device, "--device")
    logging.disable_progress_bar()
    source = base_of_adapter(adapter, model) if adapter else str(model or checkpoints.path("nano"))
    with loading(source):
        loaded = LionForConditionalGeneration.from_pretrained(source, **({} if dtype is None else {"dtype": dtype}))
        check_weights(loaded, source)
        if adapter:
            from trainers.finetune import attach_adapter

            loaded = attach_adapter(loaded, adapter).get_base_model()
        processor = LionProcessor.from_pretrained(source)
        check_processor(processor, loaded, source)
        pipe = LionImageToTextPipeline(
            model=loaded,
            processor=processor,
            device=device or default_device(),
        )
        pipe.tagger  # noqa: B018 (loads it now, so that an error is one of loading)
    return pipe
