"""Self-contained repos: models that save their code, and how a complete repo is written."""

import copy
import os
from pathlib import Path
from typing import Any, ClassVar

from transformers.modeling_utils import PreTrainedModel

from .remote_code_lion import write_code


TAGGER_SUBFOLDER = "tagger"

_LION = "modeling_lion.LionForConditionalGeneration"
LION_AUTO_MAP = {
    "AutoConfig": "configuration_lion.LionConfig",
    "AutoModel": _LION,
    "AutoModelForImageTextToText": _LION,
    "AutoModelForMultimodalLM": _LION,
    "AutoModelForSeq2SeqLM": _LION,
    "AutoModelForVision2Seq": _LION,
}
LION_PIPELINES = {
    "image-to-text": {
        "impl": "pipeline_lion.LionImageToTextPipeline",
        "pt": ["AutoModelForImageTextToText"],
        "type": "multimodal",
    }
}
RAM_AUTO_MAP = {"AutoConfig": "configuration_ram.RamConfig", "AutoModel": "modeling_ram.RamForImageTagging"}

# Where configurations of quantisation name modules to leave out: bitsandbytes', everybody else's.
_SKIP_FIELDS = ("llm_int8_skip_modules", "modules_to_not_convert")

_PUSH_ARGUMENTS = ("commit_message", "commit_description", "private", "revision", "create_pr", "tags")


class SelfContainedModel(PreTrainedModel):
    """A model whose `save_pretrained` writes the code, too, and which knows the state of the repo it came from."""

    _auto_map: ClassVar[dict[str, str]] = {}
    _custom_pipelines: ClassVar[dict[str, Any]] = {}
    _code: ClassVar[tuple[str, ...]] = ()
    # Names of modules, as transformers 4 and as transformers 5 (a regular expression from the start) look for them.
    _modules_to_not_quantize: ClassVar[tuple[str, ...]] = ()

    hub_revision: str | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """
        As in transformers. The model's `hub_revision` is the commit, branch or tag that it was loaded from.

        A `quantization_config` that names no modules to leave out leaves out those of `_modules_to_not_quantize`.
        """
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = cls._spare_modules(kwargs["quantization_config"])
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        # transformers 4 notes the commit in the configuration, 5 hands it on as revision.
        model.hub_revision = getattr(model.config, "_commit_hash", None) or kwargs.get("revision")
        return loaded

    @classmethod
    def _spare_modules(cls, quantization_config: Any) -> Any:
        if isinstance(quantization_config, dict):
            from transformers.quantizers.auto import AutoQuantizationConfig  # all of its methods: loads for long

            quantization_config = AutoQuantizationConfig.from_dict(quantization_config)
        fields = [name for name in _SKIP_FIELDS if hasattr(quantization_config, name)]
        if not cls._modules_to_not_quantize or not fields or getattr(quantization_config, fields[0]) is not None:
            return quantization_config
        quantization_config = copy.deepcopy(quantization_config)
        setattr(quantization_config, fields[0], list(cls._modules_to_not_quantize))
        return quantization_config

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        As in transformers, and self-contained: what it writes loads with `trust_remote_code=True` where LION is not
        installed.

        Args:
            save_directory (`str` or `os.PathLike`): Created if need be.
            is_main_process (`bool`): Whether to write at all, for distributed training.
            push_to_hub (`bool`): Whether to send the result to the Hub, too: to `repo_id`, or to a repo with the
                directory's name.
            kwargs: of transformers' `save_pretrained`, and with `push_to_hub` of its `push_to_hub`.
        """
        push_arguments = {name: kwargs.pop(name) for name in _PUSH_ARGUMENTS if name in kwargs}
        push_arguments |= {name: kwargs[name] for name in ("max_shard_size", "token") if name in kwargs}
        repo_id = kwargs.pop("repo_id", None) or Path(save_directory).name

        # Names without a repo: a model from the Hub knows where its code came from, but the copy has its own.
        self.config.auto_map = dict(self._auto_map)
        if self._custom_pipelines:
            self.config.custom_pipelines = copy.deepcopy(self._custom_pipelines)
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            write_code(save_directory, self._code)
            if push_to_hub:
                # transformers sends what it wrote itself. This saves again, to a folder that is sent as a whole.
                self.push_to_hub(repo_id, **push_arguments)


def save_lion(save_directory: str | os.PathLike, model: Any, processor: Any, tagger: Any = None, **kwargs: Any) -> None:
    """
    Write a complete, self-contained repo: model, processor, and the tagger in the subfolder `tagger/`.

    Args:
        save_directory (`str` or `os.PathLike`): Created if need be.
        model ([`LionForConditionalGeneration`])
        processor ([`LionProcessor`])
        tagger (*optional*): A [`LionTagger`], or anything else with a [`RamForImageTagging`] as `model` and a
            [`LionImageProcessor`] as `image_processor`.
        kwargs: of the model's `save_pretrained`, as `max_shard_size`.

    Raises:
        TypeError: `tagger` lacks its model or its image processor.
    """
    if tagger is not None and not (hasattr(tagger, "model") and hasattr(tagger, "image_processor")):
        raise TypeError(f"`tagger` must have a `model` and an `image_processor`, got {type(tagger).__name__}.")
    model.save_pretrained(save_directory, **kwargs)
    processor.save_pretrained(save_directory)
    if tagger is not None:
        folder = Path(save_directory) / TAGGER_SUBFOLDER
        tagger.model.save_pretrained(folder)
        tagger.image_processor.save_pretrained(folder)
