"""Self-contained repos: which code travels with a checkpoint, and how a complete one is written."""

import copy
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from transformers.modeling_utils import PreTrainedModel


# What goes into a repo as remote code: these files and no others. They import torch, transformers, Pillow, NumPy and
# safetensors, beside the standard library. In a repo all lie in one folder, so their names are unique.
IMAGE_PROCESSOR_CODE = ("modeling_lion/hub_lion.py", "processing_lion/image_processing_lion.py")
PROCESSOR_CODE = (
    *IMAGE_PROCESSOR_CODE,
    "processing_lion/grounding_lion.py",
    "processing_lion/processing_lion.py",
    "processing_lion/prompts_lion.py",
    "processing_lion/tasks_lion.py",
)
TAGGER_CODE = (
    *IMAGE_PROCESSOR_CODE,
    "configuration_lion/configuration_ram.py",
    "modeling_lion/attention_lion.py",
    "modeling_lion/modeling_ram.py",
)
LION_CODE = tuple(
    sorted(
        {
            *PROCESSOR_CODE,
            *TAGGER_CODE,
            "configuration_lion/configuration_lion.py",
            "modeling_lion/language_model_lion.py",
            "modeling_lion/mixture_of_adapters_lion.py",
            "modeling_lion/modeling_lion.py",
            "modeling_lion/pipeline_lion.py",
            "modeling_lion/tagger_lion.py",
            "modeling_lion/vision_aggregator_lion.py",
            "modeling_lion/vision_model_lion.py",
        }
    )
)

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

# transformers fetches the files that an entry of `auto_map` names in relative imports; where these lead further,
# version 4 stops for local directories, and neither version sees what no import leads to. So entries name all.
_ENTRIES = {
    "image_processing_lion": IMAGE_PROCESSOR_CODE,
    "modeling_lion": LION_CODE,
    "modeling_ram": TAGGER_CODE,
    "pipeline_lion": LION_CODE,
    "processing_lion": PROCESSOR_CODE,
}
_FOOTER = "\n\nif False:  # Never runs: names the files that belong to this one, for transformers to copy them.\n"

_PACKAGES = "|".join(sorted({file.partition("/")[0] for file in LION_CODE}))
_ABSOLUTE_IMPORT = re.compile(rf"^(\s*)from (?:{_PACKAGES})\.(\w+) import", re.MULTILINE)


def write_code(directory: str | os.PathLike, files: Sequence[str]) -> None:
    """
    Put `files` (see `LION_CODE`) flat into `directory`, with relative imports of one another.

    They are taken from the installed packages or, where this very module is a repo's code, from beside it.
    """
    here = Path(__file__).parent
    for file in files:
        beside = here / Path(file).name
        code = (beside if beside.is_file() else here.parent / file).read_text(encoding="utf-8")
        code = _ABSOLUTE_IMPORT.sub(r"\1from .\2 import", code).partition(_FOOTER)[0]
        others = [Path(other).stem for other in _ENTRIES.get(beside.stem, ()) if other != file]
        if others:
            code += _FOOTER + "".join(f"    from .{other} import __name__ as _\n" for other in others)
        (Path(directory) / beside.name).write_text(code, encoding="utf-8")


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
