"""The pipeline `image-to-text`: images and instructions in; words, boxes in pixels and their labels out."""

import functools
import inspect
import logging
import os
import types
from collections.abc import Sequence
from typing import Any

import torch
from PIL.Image import Image
from transformers import GenerationConfig, GenerationMixin, Pipeline
from transformers.modeling_utils import PreTrainedModel

from .hub_lion import save_lion
from .tagger_lion import LionTagger
from .image_loading_lion import load_image
from .prompts_lion import format_prompt


logger = logging.getLogger(__name__)

_SAMPLE_KEYS = ("image", "prompt", "tags", "level")


class LionImageToTextPipeline(Pipeline):
    """
    Asks LION about images. Without `tags` it asks the tagger that ships with the model first.

    Args:
        tagger (*optional*):
            What finds the tags: by default the tagger in the subfolder `tagger/` of the model's own repo, loaded when
            first needed; a directory or Hub repo of another; a [`LionTagger`] or its like; False for none.
        kwargs: of [`~transformers.Pipeline`], and defaults for the arguments of a call.

    Example:

    ```python
    >>> from transformers import pipeline

    >>> pipe = pipeline("image-to-text", model=repo, trust_remote_code=True)
    >>> pipe("street.jpg", prompt="Where is the red car?")
    [{'generated_text': '[0.440,0.060,0.650,0.367]', 'boxes': [[281.6, 28.8, 416.0, 176.2]], 'labels': ['']}]
    ```

    With a model and a processor that are loaded already, make it by itself: `LionImageToTextPipeline(model=model,
    processor=processor)`. The function `pipeline` finds a custom pipeline only where `model` is a name. Transformers'
    own pipeline `"image-text-to-text"` works with LION, too, but never asks the tagger.
    """

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False

    def __init__(self, *args: Any, tagger: Any = None, **kwargs: Any):
        found = tagger is None or tagger is False or isinstance(tagger, (str, os.PathLike))
        if not (found or hasattr(tagger, "tag_pixel_values") and hasattr(tagger, "image_processor")):
            raise TypeError(
                "`tagger` must be a LionTagger (a model with its image processor), a directory, a repo on the Hub, or "
                f"False for none; got {type(tagger).__name__}."
            )
        self._tagger = tagger
        super().__init__(*args, **kwargs)
        if self.processor is None:
            raise ValueError("`processor` is needed: the LionProcessor that belongs to the model.")
        problems = self.model.loading_problems() if hasattr(self.model, "loading_problems") else []
        if problems:
            raise ValueError(f"the checkpoint {self.model.config._name_or_path} is not whole: {'; '.join(problems)}")

    @property
    def tagger(self) -> LionTagger | None:
        """The tagger, loaded at first use; None when there is none."""
        if self._tagger is None:
            source = self.model.config._name_or_path
            revision = getattr(self.model, "hub_revision", None) or "main"
            try:
                self._tagger = LionTagger.from_pretrained(source, revision=revision)
            except OSError as error:
                logger.warning("No tags will be used, for no tagger was found with the model: %s", error)
                self._tagger = False
        elif isinstance(self._tagger, (str, os.PathLike)):
            self._tagger = LionTagger.from_pretrained(self._tagger)
        if self._tagger is False:
            return None
        if isinstance(getattr(self._tagger, "model", None), PreTrainedModel):
            self._tagger.model.to(self.device)
        return self._tagger

    def _sanitize_parameters(
        self,
        prompt: str | None = None,
        tags: str | Sequence[str] | bool | None = None,
        level: str | None = None,
        generate_kwargs: dict[str, Any] | None = None,
        task: str | None = None,
        **generation: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        level = _one_level(level, task)
        if level is not None and not isinstance(level, (str, list, tuple)):
            raise TypeError(f"`level` must be a string or a list of strings, got {level!r:.100}.")
        sample = {"prompt": prompt, "tags": tags, "level": level}
        generate_kwargs = dict(generate_kwargs or {})
        for name, value in generation.items():
            if name not in _generation_arguments():
                raise TypeError(f"`{name}` is neither an argument of this pipeline nor of `model.generate`.")
            if name in generate_kwargs:
                raise ValueError(f"`{name}` is given twice: by itself and in `generate_kwargs`.")
            if value is not None:
                generate_kwargs[name] = value
        return {name: value for name, value in sample.items() if value is not None}, generate_kwargs, {}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """
        Args:
            inputs: An image in any form that the processor takes (PIL image, path, URL, array, tensor), a dict with
                `image` and, if they are this image's own, `prompt`, `tags`, `level`; or a list, generator or dataset
                of those.
            prompt (`str` or `list[str]`, *optional*): The instruction, one for all or one for each image; several for
                a single image are asked of it one by one. A request for a short caption by default.
            tags (*optional*): A comma-separated string or list of strings, or, for several images, a list with one of
                those for each. False leaves the tag sentence out. By default the tagger is asked.
            level (`str` or `list[str]`, *optional*): `"image_level"`, `"region_level"`, or by default what the prompt
                sounds like. `task` is its former name.
            generate_kwargs (`dict`, *optional*): For `model.generate`.
            num_beams, max_new_tokens, temperature, ... (*optional*): Any argument of generation, short for the same in
                `generate_kwargs`.
            batch_size (`int`, *optional*, defaults to 1): Images at a time.

        Returns:
            For an image, a list of dicts, one for each returned sequence: `generated_text` (`str`) and, where the
            answer holds boxes, `boxes` (`list` of `[x1, y1, x2, y2]` in pixels of the image as given) and `labels`
            (`list[str]`, `""` where the answer has no words for a box). For several images or prompts, a list of
            those lists.

        Raises:
            ValueError: lists of different lengths, or a dict with other keys.
            TypeError, ValueError, OSError: an image cannot be read; of several, its place in the list is named.
        """
        if isinstance(inputs, tuple):
            inputs = list(inputs)
        if (level := _one_level(kwargs.pop("level", None), kwargs.pop("task", None))) is not None:
            kwargs["level"] = level
        if isinstance(kwargs.get("prompt"), (list, tuple)) and not isinstance(inputs, list):
            inputs = [inputs] * len(kwargs["prompt"])
        if isinstance(inputs, list):
            inputs = [_as_sample(item) for item in inputs]
            for name in ("prompt", "tags", "level"):
                if isinstance(kwargs.get(name), (list, tuple)):
                    values = kwargs.pop(name)
                    if len(values) != len(inputs):
                        raise ValueError(f"`{name}` has {len(values)} entries for {len(inputs)} images.")
                    inputs = [{name: value, **sample} for value, sample in zip(values, inputs)]
            inputs = [_Numbered(sample, index) for index, sample in enumerate(inputs)]
        elif isinstance(inputs, types.GeneratorType):
            inputs = (_Numbered(_as_sample(item), index) for index, item in enumerate(inputs))
        if self._needs_tagger(inputs, kwargs.get("tags", self._preprocess_params.get("tags"))):
            self.tagger  # noqa: B018 (loads it, once and not in every worker)
        return super().__call__(inputs, **kwargs)

    @staticmethod
    def _needs_tagger(inputs: Any, tags: Any) -> bool:
        if tags is not None:
            return False
        samples = inputs if isinstance(inputs, list) else [inputs]
        return any(not isinstance(sample, dict) or sample.get("tags") is None for sample in samples)

    def preprocess(
        self, inputs: Any, prompt: str | None = None, tags: Any = None, level: str | None = None
    ) -> dict[str, dict[str, Any]]:
        sample = {"prompt": prompt, "tags": tags, "level": level}
        sample.update({name: value for name, value in _as_sample(inputs).items() if value is not None})
        image = _load(sample.pop("image"), getattr(inputs, "index", None))
        sample["prompt"] = format_prompt("caption_short") if sample["prompt"] is None else sample["prompt"]
        sample["level"] = sample["level"] or "auto"
        sample["image_size"] = (image.height, image.width)
        sample["pixel_values"] = self.processor(images=image, return_tensors="pt")["pixel_values"]
        if sample["tags"] is None and self.tagger is not None:
            sample["tagger_pixel_values"] = self.tagger.image_processor(image, return_tensors="pt")["pixel_values"]
        # One entry, so that batches are lists of samples and need no padding here.
        return {"sample": sample}

    def _forward(self, model_inputs: dict[str, Any], **generate_kwargs: Any) -> dict[str, Any]:
        samples = model_inputs["sample"]
        samples = samples if isinstance(samples, list) else [samples]
        untagged, tagger = [sample for sample in samples if "tagger_pixel_values" in sample], self.tagger
        if untagged and tagger is not None:
            pixel_values = torch.cat([sample["tagger_pixel_values"] for sample in untagged])
            for sample, tags in zip(untagged, tagger.tag_pixel_values(pixel_values)):
                sample["tags"] = tags
        text_inputs = self.processor(
            text=[sample["prompt"] for sample in samples],
            tags=[None if sample["tags"] is False else sample["tags"] for sample in samples],
            level=[sample["level"] for sample in samples],
            return_tensors="pt",
        ).to(self.device)
        pixel_values = torch.cat([sample["pixel_values"] for sample in samples])
        generated = self.model.generate(pixel_values=pixel_values, **text_inputs, **generate_kwargs)
        generated_ids = generated if isinstance(generated, torch.Tensor) else generated.sequences
        return {
            "generated_ids": generated_ids.view(len(samples), -1, generated_ids.shape[-1]),
            "image_size": torch.tensor([sample["image_size"] for sample in samples]),
        }

    def postprocess(self, model_outputs: dict[str, Any]) -> list[dict[str, Any]]:
        texts = self.processor.batch_decode(model_outputs["generated_ids"][0], skip_special_tokens=True)
        height_and_width = tuple(model_outputs["image_size"][0].tolist())
        results = []
        for text, grounding in zip(
            texts, self.processor.post_process_grounding(texts, [height_and_width] * len(texts))
        ):
            result: dict[str, Any] = {"generated_text": text.strip()}
            if len(grounding["boxes"]):
                boxes = [[round(edge, 2) for edge in box] for box in grounding["boxes"].tolist()]
                result |= {"boxes": boxes, "labels": grounding["labels"]}
            results.append(result)
        return results

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Write model, processor and, where there is one, tagger as a self-contained repo."""
        save_lion(save_directory, self.model, self.processor, self.tagger, **kwargs)


def _one_level(level: Any, task: Any) -> Any:
    """The level, under its name or the one it had before."""
    if level is not None and task is not None:
        raise ValueError("`task` is the former name of `level`: only one of them must be given.")
    return task if level is None else level


class _Numbered(dict):
    """A sample that knows its place."""

    def __init__(self, sample: dict[str, Any], index: int):
        super().__init__(sample)
        self.index = index


def _load(image: Any, index: int | None) -> Image:
    try:
        return load_image(image)
    except (OSError, TypeError, ValueError) as error:
        if index is None:
            raise
        kind = next(kind for kind in (FileNotFoundError, OSError, TypeError, ValueError) if isinstance(error, kind))
        raise kind(f"images[{index}]: {error}") from error


@functools.cache
def _generation_arguments() -> frozenset[str]:
    """Fields of a generation's configuration, and what `generate` takes besides."""
    called = {"self", "inputs", "kwargs", "generation_config"}
    arguments = set(inspect.signature(GenerationMixin.generate).parameters) - called
    return frozenset(arguments | set(GenerationConfig().to_dict()) | {"generation_config", "use_cache"})


def _as_sample(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        return {"image": item}
    if "task" in item:
        item = {**item, "level": _one_level(item.get("level"), item["task"])}
        del item["task"]
    unknown = [name for name in item if name not in _SAMPLE_KEYS]
    if unknown or item.get("image") is None:
        raise ValueError(f"a dict must have `image` and may have {', '.join(_SAMPLE_KEYS[1:])}; got {', '.join(item)}")
    return dict(item)


if False:  # Never runs: names the files that belong to this one, for transformers to copy them.
    from .configuration_lion import __name__ as _
    from .configuration_ram import __name__ as _
    from .validation_lion import __name__ as _
    from .attention_lion import __name__ as _
    from .handler import __name__ as _
    from .hub_lion import __name__ as _
    from .language_model_lion import __name__ as _
    from .mixture_of_adapters_lion import __name__ as _
    from .modeling_lion import __name__ as _
    from .modeling_ram import __name__ as _
    from .tagger_lion import __name__ as _
    from .vision_aggregator_lion import __name__ as _
    from .vision_model_lion import __name__ as _
    from .fetching_lion import __name__ as _
    from .grounding_lion import __name__ as _
    from .image_loading_lion import __name__ as _
    from .image_processing_lion import __name__ as _
    from .levels_lion import __name__ as _
    from .panics_lion import __name__ as _
    from .processing_lion import __name__ as _
    from .prompts_lion import __name__ as _
    from .remote_code_lion import __name__ as _
