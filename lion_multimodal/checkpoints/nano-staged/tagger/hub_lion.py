"""Self-contained repos: models that save their code, and how a complete repo is written."""

import copy
import inspect
import os
from collections.abc import Sequence
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
    # What loading found wrong with the weights: names without weights (each with the state its parameter was in),
    # weights without a name, and names whose weights have another shape.
    _loading_record: dict[str, Any] | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """
        As in transformers. The model's `hub_revision` is the commit, branch or tag that it was loaded from.

        A `quantization_config` that names no modules to leave out leaves out those of `_modules_to_not_quantize`.

        Raises:
            OSError: a directory has no `config.json`. (transformers 5 would take the default configuration, and fill
                a model of several gigabytes with random numbers.)
        """
        if kwargs.get("config") is None:
            _check_config_file(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        if kwargs.get("quantization_config") is not None:
            kwargs["quantization_config"] = cls._spare_modules(kwargs["quantization_config"])
        with_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model._record_loading(info, changed=bool(cls._config_fields() & set(kwargs)))
        # transformers 4 notes the commit in the configuration, 5 hands it on as revision.
        model.hub_revision = getattr(model.config, "_commit_hash", None) or kwargs.get("revision")
        return (model, info) if with_info else model

    @classmethod
    def _config_fields(cls) -> set[str]:
        return set(inspect.signature(cls.config_class.__init__).parameters) - {"self", "kwargs"}

    def _record_loading(self, info: dict[str, Any], changed: bool) -> None:
        parameters = dict(self.named_parameters())
        self._loading_record = {
            # The version counts changes in place, such as an optimiser's: what has been trained since is not missing.
            "missing": {name: getattr(parameters.get(name), "_version", 0) for name in info["missing_keys"]},
            # Who asks for another configuration than the files' (`adapter_config={"adapters": []}`) leaves weights out.
            "unexpected": [] if changed else sorted(info["unexpected_keys"]),
            "mismatched": sorted(str(entry[0]) for entry in info["mismatched_keys"]),
        }

    def loading_problems(self) -> list[str]:
        """
        What `from_pretrained` found wrong with the weights, a sentence each: names for which the files hold none (and
        which nothing has changed since), weights that belong nowhere, and weights of another shape.
        """
        record = self._loading_record
        if record is None:
            return []
        parameters = dict(self.named_parameters())
        missing = [
            name
            for name, version in record["missing"].items()
            if getattr(parameters.get(name), "_version", 0) == version
        ]
        kinds = {
            "the files hold no weights for": sorted(missing),
            "the files hold weights that the configuration has no place for:": record["unexpected"],
            "the files hold weights of another shape for": record["mismatched"],
        }
        return [f"{what} {_enumerate(names)}" for what, names in kinds.items() if names]

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


def _check_config_file(name_or_path: str | os.PathLike, subfolder: str) -> None:
    folder = Path(name_or_path, subfolder)
    if folder.is_dir() and not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise OSError(
                f"{folder} is an adapter, not a checkpoint: it has adapter_config.json and no config.json. Load its "
                "base with `from_pretrained`, and the adapter on it with `peft.PeftModel.from_pretrained`."
            )
        raise OSError(f"{folder} is no checkpoint: there is no file named config.json in it.")


def _enumerate(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def save_lion(save_directory: str | os.PathLike, model: Any, processor: Any, tagger: Any = None, **kwargs: Any) -> None:
    """
    Write a complete, self-contained repo: model, processor, and the tagger in the subfolder `tagger/`.

    Args:
        save_directory (`str` or `os.PathLike`): Created if need be.
        model ([`LionForConditionalGeneration`]): The model.
        processor ([`LionProcessor`]): Its processor.
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
