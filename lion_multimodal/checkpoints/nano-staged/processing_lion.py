"""LION's processor: images, instructions, tags and answers in; tensors for the model, and words and boxes back."""

import json
import os
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
import transformers
from transformers import AutoTokenizer, PretrainedConfig
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ImagesKwargs, ProcessingKwargs, ProcessorMixin, TextKwargs, Unpack
from transformers.tokenization_utils_base import PaddingStrategy, TruncationStrategy
from transformers.utils import cached_file, logging

from .grounding_lion import label_boxes, to_pixels
from .image_loading_lion import ImageSource
from .image_processing_lion import LionImageProcessor
from .levels_lion import LEVELS, infer_level
from .panics_lion import named_tokenizer_errors
from .prompts_lion import SOFT_PROMPT_TOKEN, format_tags
from .remote_code_lion import PROCESSOR_CODE, write_code


TRANSFORMERS_5 = int(transformers.__version__.split(".")[0]) >= 5
_IGNORED_LABEL = -100

# LION has no memory of turns: the last message is the question. Its text parts are the instruction; the image has no
# token in it.
CHAT_TEMPLATE = (
    "{%- set message = messages[-1] -%}"
    "{%- if message['role'] != 'user' -%}"
    "{{ raise_exception('LION answers questions: the last message must be of the role user') }}"
    "{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}"
    "{%- if not loop.first %} {% endif -%}{{ part['text'] }}"
    "{%- endfor -%}"
    "{%- endif -%}"
)
_IMAGE_KEYS = ("image", "url", "path", "base64", "image_url")

# What `TextKwargs` offers beside what the processor takes: refused where it is set to anything else than this.
_REFUSED_TEXT_KWARGS = {
    "text_pair": (None,),
    "text_pair_target": (None,),
    "add_special_tokens": (None, True),
    "stride": (None, 0),
    "is_split_into_words": (None, False),
    "return_token_type_ids": (None, False),
    "return_attention_mask": (None, True),
    "return_overflowing_tokens": (None, False),
    "return_special_tokens_mask": (None, False),
    "return_offsets_mapping": (None, False),
    "return_length": (None, False),
    "return_mm_token_type_ids": (None, False),
    "return_text_replacement_offsets": (None, False),
    "sanitize_control_tokens": (None, False),
}
_REASONS = {
    "add_special_tokens": "LION's prompts and answers end with the end token",
    "return_attention_mask": "without it, padding would be read",
    "return_offsets_mapping": "a prompt is cut in the middle where it is too long; neither is "
    "`return_assistant_tokens_mask`, which is made from it",
}
_TEXT_KWARGS = frozenset(TextKwargs.__annotations__)
_IMAGES_KWARGS = frozenset(ImagesKwargs.__annotations__)
_GROUPS = frozenset({"text_kwargs", "images_kwargs", "common_kwargs", "videos_kwargs", "audio_kwargs"})
_CALL_ARGUMENTS = frozenset({"tags", "level", "answers", "task"})

# The share of unknown tokens above which a text is taken for one that the tokenizer does not know.
_UNKNOWN_SHARE = 0.1

# What a processor consists of, by folder: of the files in a line, one must be there.
_PROCESSOR_FILES = {
    "": [
        ("processor_config.json", "preprocessor_config.json"),
        ("tokenizer_config.json",),
        ("tokenizer.json", "spiece.model"),
    ],
    "qformer_tokenizer": [("tokenizer_config.json",), ("tokenizer.json", "vocab.txt")],
}
_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "proxies", "repo_type")

logger = logging.get_logger(__name__)
_WARNED: weakref.WeakSet = weakref.WeakSet()  # processors that have warned of text they do not know


def add_qformer_bos_token(tokenizer: Any) -> Any:
    """
    Adds `[DEC]` as the beginning-of-sequence token to a BERT tokenizer that has none, as the official code does with
    `bert-base-uncased` (models/lion_t5.py). The Q-Former's vocabulary counts it: 30522 + 1. Returns the tokenizer.
    """
    if tokenizer.bos_token is None:
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer


class LionBatchFeature(BatchFeature):
    """What the processor returns. `level_ids` can still be read under the name `task_ids`."""

    def __getitem__(self, item: Any) -> Any:
        return super().__getitem__("level_ids" if item == "task_ids" else item)


def check_processor_files(pretrained_model_name_or_path: str | os.PathLike, subfolder: str = "", **kwargs: Any) -> None:
    """
    Checks that a directory or a repo holds all files of a [`LionProcessor`]. transformers itself would make up a
    tokenizer, of special tokens alone, where `tokenizer.json` is missing.

    Args:
        pretrained_model_name_or_path (`str` or `os.PathLike`): The directory, or the repo's name.
        subfolder (`str`, *optional*, defaults to `""`): A folder in it.
        kwargs: `cache_dir`, `revision`, `token`, `local_files_only` and the like, as `from_pretrained` takes them.

    Raises:
        OSError: A file is missing; names it.
    """
    hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
    for folder, choices in _PROCESSOR_FILES.items():
        place = os.path.join(subfolder or "", folder)
        for names in choices:
            found = (_cached_file(pretrained_model_name_or_path, name, place, hub) for name in names)
            if not any(found):
                raise OSError(
                    f"{os.path.join(pretrained_model_name_or_path, place, names[0])} is missing: the checkpoint's "
                    "processor is incomplete"
                )


def _cached_file(repo: str | os.PathLike, name: str, subfolder: str, hub: dict[str, Any]) -> str | None:
    if os.path.isdir(repo):
        path = os.path.join(repo, subfolder, name)
        return path if os.path.isfile(path) else None
    return cached_file(os.fspath(repo), name, subfolder=subfolder, _raise_exceptions_for_missing_entries=False, **hub)


class LionProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """`padding` and `truncation` are True by default, `return_tensors` is "pt"."""

    _defaults = {
        "text_kwargs": {"padding": True, "truncation": True},
        "common_kwargs": {"return_tensors": "pt"},
    }


class LionProcessor(ProcessorMixin):
    """
    Combines [`LionImageProcessor`], the tokenizer of the T5 language model and the BERT tokenizer of the Q-Former.

    Args:
        image_processor: the [`LionImageProcessor`].
        tokenizer: the T5 tokenizer; it must know `<extra_id_0>`, whose place the soft prompt takes.
        qformer_tokenizer: the BERT tokenizer, with `[DEC]` where the model's vocabulary counts it (see
            [`add_qformer_bos_token`]). Saved in the subfolder `qformer_tokenizer`.
        chat_template: by default one that prints the text parts of the last message.
        max_text_length: the most tokens of the prompt for T5, tag sentence and end token included.
        max_qformer_text_length: the most tokens of the instruction for the Q-Former.
        max_answer_length: the most tokens of an answer or candidate, end token included.
    """

    valid_processor_kwargs = LionProcessorKwargs

    if not TRANSFORMERS_5:  # transformers 5 reads the signature of __init__ instead
        attributes = ["image_processor", "tokenizer", "qformer_tokenizer"]
        image_processor_class = "AutoImageProcessor"
        tokenizer_class = "AutoTokenizer"
        qformer_tokenizer_class = "AutoTokenizer"

    def __init__(
        self,
        image_processor: LionImageProcessor | None = None,
        tokenizer: Any = None,
        qformer_tokenizer: Any = None,
        chat_template: str | None = None,
        max_text_length: int = 128,
        max_qformer_text_length: int = 128,
        max_answer_length: int = 256,
        **kwargs: Any,
    ) -> None:
        for name, part in [
            ("image_processor", image_processor),
            ("tokenizer", tokenizer),
            ("qformer_tokenizer", qformer_tokenizer),
        ]:
            if part is None:
                raise ValueError(f"`{name}` must be given")
        for name, length in [
            ("max_text_length", max_text_length),
            ("max_qformer_text_length", max_qformer_text_length),
            ("max_answer_length", max_answer_length),
        ]:
            _check_length(name, length)
        super().__init__(
            image_processor, tokenizer, qformer_tokenizer, chat_template=chat_template or CHAT_TEMPLATE, **kwargs
        )
        self.auto_map = {"AutoProcessor": "processing_lion.LionProcessor"}
        self.max_text_length = max_text_length
        self.max_qformer_text_length = max_qformer_text_length
        self.max_answer_length = max_answer_length
        self.soft_prompt_token_id = tokenizer.convert_tokens_to_ids(SOFT_PROMPT_TOKEN)
        if self.soft_prompt_token_id in (None, tokenizer.unk_token_id):
            raise ValueError(f"tokenizer must know the token {SOFT_PROMPT_TOKEN}, whose place the soft prompt takes")

        # The shortest prompt that keeps the soft prompt: the tag sentence without tags, and the end token.
        shortest = len(self._tokenize([format_tags("").rstrip()])[0])
        if max_text_length < shortest:
            raise ValueError(
                f"max_text_length must be at least {shortest}, the length of the tag sentence, got {max_text_length}"
            )

    # --- Saving and loading -----------------------------------------------------------------------------------------

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path: str, *args: Any, **kwargs: Any) -> list:
        # transformers 4 would take the T5 tokenizer for both, and 5 would do so where the subfolder is missing. The
        # image processor is named, so that it needs no registration with AutoImageProcessor.
        subfolder = kwargs.pop("subfolder", "") or ""
        check_processor_files(pretrained_model_name_or_path, subfolder, **kwargs)
        qformer_subfolder = os.path.join(subfolder, "qformer_tokenizer")
        return [
            LionImageProcessor.from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs),
            _load_tokenizer(pretrained_model_name_or_path, subfolder, kwargs),
            _load_tokenizer(pretrained_model_name_or_path, qformer_subfolder, kwargs),
        ]

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """
        Saves image processor, tokenizers and settings, the Q-Former's tokenizer in the subfolder `qformer_tokenizer`.
        What either major version of transformers saves, both load; the code is saved with it, for places where LION is
        not installed.
        """
        save_directory = os.fspath(save_directory)
        pushed = dict(kwargs)
        if push_to_hub and pushed.pop("save_jinja_files", True) is not True:
            raise ValueError("`save_jinja_files` cannot be given together with `push_to_hub`")
        if not TRANSFORMERS_5:
            self.qformer_tokenizer.save_pretrained(os.path.join(save_directory, "qformer_tokenizer"))
            self.attributes = ["image_processor", "tokenizer"]  # shadows the class's list for this call
        try:
            files = super().save_pretrained(save_directory, **kwargs)
        finally:
            self.__dict__.pop("attributes", None)
        for folder in (save_directory, os.path.join(save_directory, "qformer_tokenizer")):
            _make_tokenizer_portable(os.path.join(folder, "tokenizer_config.json"))
        write_code(save_directory, PROCESSOR_CODE)
        if push_to_hub:  # saves once more, to a folder of its own, so that all files are sent
            self.push_to_hub(pushed.pop("repo_id", Path(save_directory).name), **pushed)
        return files

    # --- Inputs -----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
        tags: str | Sequence[str] | Sequence[str | Sequence[str] | None] | None = None,
        level: str | Sequence[str] | None = None,
        answers: str | Sequence[str] | None = None,
        task: str | Sequence[str] | None = None,
        **kwargs: Unpack[LionProcessorKwargs],
    ) -> BatchFeature:
        """
        Prepares a batch of B samples, each an image, an instruction, and what else is known.

        Where the prompt for T5 is longer than `max_text_length`, whole tags are left out from the end of the list,
        then the question's head is cut; the tag sentence with its soft-prompt token stays. The Q-Former sees the
        instruction without tags, its head cut at `max_qformer_text_length`. Answers are cut at their end.

        Args:
            images: one image per text: PIL image, path, URL, array or tensor, see [`load_image`]. None where
                features from `model.encode_images` are used, or where there is none.
            text: the instructions. A `<image>` in them is plain text. None to prepare images alone.
            tags: per sample a comma-separated string, a list of strings, or None for no tag sentence; an empty string
                or list gives the sentence with `[]`. One string or None holds for all samples. With a single string as
                `text`, a list of strings is this sample's list.
            level: `"image_level"`, `"region_level"`, or `"auto"` (the default) to decide by the instruction (see
                [`infer_level`]), one for all samples or one each.
            answers: the answers to learn, one per sample.
            task: the former name of `level`.
            kwargs: of the image processor (`size`, `do_normalize`, ..) and of the text: `padding` (True; of prompts,
                instructions and answers), `truncation` (True; of the prompt for T5), `max_length` (in place of
                `max_text_length`), `pad_to_multiple_of`, `padding_side` (of the prompt; the model moves padding behind
                the text), `text_target` (another name of `answers`), `return_tensors` ("pt"). What a tokenizer offers
                beside these is refused. With `padding=False`, instructions for the Q-Former are padded to
                `max_qformer_text_length` all the same, since no tokenizer's `pad` does so later.

        Returns:
            With `images`: `pixel_values` (B, 3, H, W) float32. With `text`, all int64: `input_ids`, `attention_mask`
            (B, L); `qformer_input_ids`, `qformer_attention_mask` (B, Lq); `level_ids` (B,), 0 for region level and 1
            for image level (also read by their former name, `task_ids`); `soft_prompt_mask` (B, S), 1 at the tag
            sentence's own `<extra_id_0>` alone, whatever tags and instruction hold. It covers the first S tokens of
            the text, up to that one, so that rows can be padded to any length by whatever pads them. With `answers`:
            `labels` (B, T), end token included, padded with -100.

        Raises:
            ValueError: the arguments are not of one length, or hold values they may not hold.
            TypeError: an argument is of another type.
        """
        if images is None and text is None:
            raise ValueError("give images, text, or both")
        if level is not None and task is not None:
            raise ValueError("`task` is the former name of `level`: only one of them must be given")
        level = task if level is None else level
        for name in ("videos", "audio"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"LION takes no {name}")
        self._check_kwargs(kwargs)
        text_target = _take_text_target(kwargs)
        if text_target is not None:
            if answers is not None:
                raise ValueError("`text_target` is another name of `answers`: only one of them must be given")
            answers = text_target
        merged = self._merge_kwargs(LionProcessorKwargs, tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        text_kwargs, images_kwargs = merged["text_kwargs"], merged["images_kwargs"]
        return_tensors = text_kwargs.get("return_tensors")
        data: dict[str, Any] = {}

        if text is None:
            for name, value in [("tags", tags), ("answers", answers)]:
                if value is not None:
                    raise ValueError(f"{name} need text: they belong to an instruction")
        else:
            texts = _strings("text", text)
            tag_lists = _tags_per_sample(tags, len(texts), single=isinstance(text, str))
            data.update(self._encode_prompts(texts, tag_lists, text_kwargs))
            data.update(self._encode_instructions(texts, text_kwargs))
            data["level_ids"] = [LEVELS.index(name) for name in _levels_per_sample(level, texts)]
            if answers is not None:
                answers = _strings("answers", answers)
                if len(answers) != len(texts):
                    raise ValueError(f"answers: got {len(answers)} for {len(texts)} texts; give one for each")
                ids = self._answer_ids(answers)
                length = _padded_length(ids, {**text_kwargs, "max_length": None}, self.max_answer_length)
                data["labels"] = _pad(ids, _IGNORED_LABEL, length)

        if images is not None:
            encoded = self.image_processor(images, **images_kwargs)
            count = len(encoded["pixel_values"])
            if text is not None and count != len(texts):
                raise ValueError(
                    f"images: got {count} for {len(texts)} texts; give one for each. To ask one image several "
                    "questions, repeat it, or encode it once with model.encode_images and pass images=None here"
                )
            data = {**encoded, **data}
        return _batch_feature(data, return_tensors)

    def _check_kwargs(self, kwargs: Mapping[str, Any]) -> None:
        """`TypeError` for arguments that are none, `ValueError` for those of a tokenizer that LION does not take."""
        known = _TEXT_KWARGS | _IMAGES_KWARGS | _GROUPS | {"return_tensors"}
        for name in kwargs:
            if name not in known:
                raise TypeError(f"{type(self).__name__} takes no argument {name!r}")
        nested = [kwargs[group] for group in ("text_kwargs", "common_kwargs") if kwargs.get(group)]
        text_kwargs = {name: value for name, value in kwargs.items() if name in _TEXT_KWARGS | {"return_tensors"}}
        for group in nested:
            text_kwargs.update(group)
        for name, allowed in _REFUSED_TEXT_KWARGS.items():
            # `is`, as 0 is no False here
            if name in text_kwargs and not any(text_kwargs[name] is value for value in allowed):
                reason = f": {_REASONS[name]}" if name in _REASONS else ""
                raise ValueError(
                    f"`{name}` is not offered by {type(self).__name__}, got {text_kwargs[name]!r:.100}{reason}"
                )
        _check_layout(text_kwargs)

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        """Ids of T5's tokenizer with the end token, not truncated."""
        end = self.tokenizer.eos_token_id
        # verbose=False: the tokenizer's own warning about length is not ours, we truncate afterwards
        encoded = self.tokenizer(texts, padding=False, truncation=False, verbose=False)["input_ids"]
        return [ids if ids and ids[-1] == end else [*ids, end] for ids in encoded]

    def _encode_prompts(
        self, texts: list[str], tag_lists: list[str | list[str] | None], text_kwargs: dict[str, Any]
    ) -> dict[str, list[list[int]]]:
        prompts = [text if tags is None else format_tags(tags) + text for text, tags in zip(texts, tag_lists)]
        sequences = self._tokenize(prompts)
        self._warn_of_unknown_tokens(sequences, self.tokenizer.unk_token_id)
        if text_kwargs.get("truncation") not in (False, "do_not_truncate", TruncationStrategy.DO_NOT_TRUNCATE):
            limit = text_kwargs.get("max_length") or self.max_text_length
            sequences = [
                ids if len(ids) <= limit else self._truncate(ids, text, tags, limit)
                for ids, text, tags in zip(sequences, texts, tag_lists)
            ]
        # The sentence's head is fixed, so its token is the first of its kind, whatever tags and text hold, and stands
        # at one place in all prompts that begin with the sentence.
        place = self._tokenize([format_tags("")])[0].index(self.soft_prompt_token_id)
        width = min(place + 1, max(len(ids) for ids in sequences))  # shorter prompts have no tags
        masks = [([0] * place + [int(tags is not None)])[:width] for tags in tag_lists]

        layout = {
            "length": _padded_length(sequences, text_kwargs, self.max_text_length),
            "side": text_kwargs.get("padding_side") or self.tokenizer.padding_side,
        }
        return {
            "input_ids": _pad(sequences, self.tokenizer.pad_token_id, **layout),
            "attention_mask": _pad([[1] * len(ids) for ids in sequences], 0, **layout),
            "soft_prompt_mask": masks,
        }

    def _warn_of_unknown_tokens(self, sequences: list[list[int]], unknown: int | None) -> None:
        if unknown is None:
            return
        share = sum(ids.count(unknown) for ids in sequences) / max(1, sum(len(ids) - 1 for ids in sequences))
        if share > _UNKNOWN_SHARE and self not in _WARNED:
            _WARNED.add(self)
            logger.warning(
                f"{share:.0%} of the text's tokens are unknown to the tokenizer: the model cannot read it, and answers "
                "all the same. Ask in English. This warning is given once."
            )

    def _truncate(self, ids: list[int], text: str, tags: str | list[str] | None, limit: int) -> list[int]:
        """Shortens a prompt to `limit` tokens: whole tags go first, from the end, then the question's head."""
        if tags is None:
            return ids[-limit:]
        names = [tag.strip() for tag in tags.split(",")] if isinstance(tags, str) else list(tags)
        # The largest number of tags with which the prompt fits; length grows with the number.
        fitting, too_many = -1, len(names)
        while too_many - fitting > 1:
            middle = (fitting + too_many) // 2
            shorter = self._tokenize([format_tags(names[:middle]) + text])[0]
            if len(shorter) <= limit:
                fitting, ids = middle, shorter
            else:
                too_many = middle
        if fitting >= 0:
            return ids
        sentence = self._tokenize([format_tags("").rstrip()])[0][:-1]
        if limit <= len(sentence):
            raise ValueError(
                f"max_length must be at least {len(sentence) + 1}, the length of the tag sentence, got {limit}"
            )
        question = self._tokenize([format_tags("") + text])[0][len(sentence) :]
        return sentence + question[-(limit - len(sentence)) :]

    def _encode_instructions(self, texts: list[str], text_kwargs: dict[str, Any]) -> dict[str, list[list[int]]]:
        limit = self.max_qformer_text_length
        sequences = self.qformer_tokenizer(texts, padding=False, truncation=False, verbose=False)["input_ids"]
        # [CLS] stays in front when the head is cut
        start = self.qformer_tokenizer.cls_token_id
        sequences = [
            ids if len(ids) <= limit else ([start, *ids[1 - limit :]] if ids[0] == start else ids[-limit:])
            for ids in sequences
        ]
        length = _padded_length(sequences, {**text_kwargs, "max_length": None}, limit)
        layout = {"length": limit if length is None else length, "side": self.qformer_tokenizer.padding_side}
        return {
            "qformer_input_ids": _pad(sequences, self.qformer_tokenizer.pad_token_id, **layout),
            "qformer_attention_mask": _pad([[1] * len(ids) for ids in sequences], 0, **layout),
        }

    def _answer_ids(self, answers: list[str]) -> list[list[int]]:
        return [
            ids if len(ids) <= self.max_answer_length else [*ids[: self.max_answer_length - 1], ids[-1]]
            for ids in self._tokenize(answers)
        ]

    @property
    def padding_side(self) -> str:
        """Where prompts are padded: the tokenizer's setting."""
        return self.tokenizer.padding_side

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str | PaddingStrategy = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
        verbose: bool = True,
    ) -> BatchFeature:
        """
        Pads rows that the processor made to one length, as a tokenizer's `pad` does, all that belongs to LION included.

        Args:
            encoded_inputs: rows, each a dict of what one sample has, or a dict of lists of these.
            padding: True or `"longest"`, `"max_length"`, or False.
            max_length: the length of prompts with `"max_length"`; by default `max_text_length`.
            pad_to_multiple_of: a number that the lengths shall be multiples of.
            padding_side: where prompts are padded, `"left"` or `"right"`.
            return_attention_mask: True or None; the mask is always returned.
            return_tensors: `"pt"`, `"np"`, or None for lists.
            verbose: taken for the sake of tokenizers' signature.
        """
        layout = {"padding": padding, "max_length": max_length, "pad_to_multiple_of": pad_to_multiple_of}
        _check_layout({**layout, "padding_side": padding_side})
        if return_attention_mask is False:
            reason = _REASONS["return_attention_mask"]
            raise ValueError(f"`return_attention_mask` must be True or None, got False: {reason}")
        if isinstance(encoded_inputs, Mapping):
            columns: dict[str, Any] = {name: list(values) for name, values in encoded_inputs.items()}
        else:
            rows = list(encoded_inputs)
            if not rows:
                raise ValueError("`encoded_inputs` must hold at least one row")
            for index, row in enumerate(rows):
                if set(row) != set(rows[0]):
                    raise ValueError(
                        f"`encoded_inputs` must hold the same keys in all rows, got {sorted(rows[0])} in row 0 and "
                        f"{sorted(row)} in row {index}"
                    )
            columns = {name: [row[name] for row in rows] for name in rows[0]}
        if "input_ids" not in columns:
            raise ValueError(f"`encoded_inputs` must hold `input_ids`, got {sorted(columns)}")
        columns.setdefault("attention_mask", [[1] * len(ids) for ids in columns["input_ids"]])
        qformer = {**layout, "max_length": None}
        side, qformer_side = padding_side or self.padding_side, self.qformer_tokenizer.padding_side
        paddings: list[tuple[str, Any, int, dict[str, Any], str]] = [
            ("input_ids", self.tokenizer.pad_token_id, self.max_text_length, layout, side),
            ("attention_mask", 0, self.max_text_length, layout, side),
            (
                "qformer_input_ids",
                self.qformer_tokenizer.pad_token_id,
                self.max_qformer_text_length,
                qformer,
                qformer_side,
            ),
            ("qformer_attention_mask", 0, self.max_qformer_text_length, qformer, qformer_side),
            ("labels", _IGNORED_LABEL, self.max_answer_length, qformer, "right"),
            ("soft_prompt_mask", 0, 1, {"padding": True}, "right"),
        ]
        for name, value, limit, how, where in paddings:
            if name in columns:
                sequences = [_as_list(ids) for ids in columns[name]]
                columns[name] = _pad(sequences, value, _padded_length(sequences, how, limit), where)
        if return_tensors is not None and "pixel_values" in columns:
            columns["pixel_values"] = np.stack([np.asarray(values, np.float32) for values in columns["pixel_values"]])
        return _batch_feature(columns, return_tensors)

    # --- Conversations ----------------------------------------------------------------------------------------------

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        chat_template: str | None = None,
        *,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: str | None = "auto",
        return_dict: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        The question of a conversation, or what the model takes of it.

        LION has no memory of turns. The last message, which must be the user's, is asked alone; a warning says so once
        where there are others. Its image is the one in that message, or else the one of the conversation.

        Args:
            conversation: messages with `role` and `content`, a string or parts of the types `text` and `image`; or a
                list of conversations.
            chat_template: another template than the processor's own.
            add_generation_prompt: makes no difference: an answer begins without one.
            continue_final_message, return_assistant_tokens_mask: not offered by LION.
            tokenize: whether to return what the model takes in place of the text.
            return_tensors: as in a call of the processor.
            return_dict: whether to return all of it rather than `input_ids`.
            processor_kwargs: arguments of a call of the processor; they may stand in `kwargs` as well.
            kwargs: variables of the template.

        Raises:
            ValueError: the last message is not the user's, or holds no text; or there is more than one image.
        """
        for name, value in [
            ("continue_final_message", continue_final_message),
            ("return_assistant_tokens_mask", return_assistant_tokens_mask),
        ]:
            if value:
                raise ValueError(f"`{name}` is not offered by {type(self).__name__}, got {value!r:.100}")
        if not isinstance(conversation, Sequence) or isinstance(conversation, str) or not conversation:
            raise ValueError(f"`conversation` must be a list of messages, got {conversation!r:.100}")
        batched = not isinstance(conversation[0], Mapping)
        conversations = list(conversation) if batched else [conversation]
        questions, images = [], []
        for index, messages in enumerate(conversations):
            name = f"conversation[{index}]" if batched else "conversation"
            question, image = _question_of(name, getattr(messages, "messages", messages))
            questions.append([question])
            images.append(image)

        known = _TEXT_KWARGS | _IMAGES_KWARGS | _GROUPS | _CALL_ARGUMENTS | {"images"}
        call_kwargs = {name: kwargs.pop(name) for name in list(kwargs) if name in known}
        call_kwargs.update(processor_kwargs or {})
        prompts = super().apply_chat_template(
            questions, chat_template, add_generation_prompt=add_generation_prompt, tokenize=False, **kwargs
        )
        for index, prompt in enumerate(prompts):
            if not prompt.strip():
                name = f"conversation[{index}]" if batched else "conversation"
                raise ValueError(f"{name} must end with a message that holds text, the question")
        if not tokenize:
            return prompts if batched else prompts[0]
        if return_tensors != "auto":
            call_kwargs["return_tensors"] = return_tensors
        given = call_kwargs.pop("images", None)
        if given is None and any(image is not None for image in images):
            missing = [index for index, image in enumerate(images) if image is None]
            if missing:
                raise ValueError(f"conversation[{missing[0]}] holds no image, while others do")
            given = images
        output = self(images=given, text=prompts, **call_kwargs)
        return output if return_dict else output["input_ids"]

    def encode_candidates(self, candidates: Sequence[str] | Sequence[Sequence[str]]) -> torch.LongTensor:
        """
        Candidate answers for `model.score_candidates`.

        Args:
            candidates: C answers that hold for every sample, or C answers for each of B samples.

        Returns:
            int64 of shape (C, L) or (B, C, L), each answer with its end token, padded with -100.

        Raises:
            ValueError: there are no candidates, or not as many for every sample.
        """
        if isinstance(candidates, str) or not isinstance(candidates, Sequence):
            raise TypeError(f"candidates must be a list of strings or a list of such lists, got {candidates!r:.100}")
        if len(candidates) == 0:
            raise ValueError("candidates must hold at least one answer")
        if isinstance(candidates[0], str):
            return torch.tensor(_pad(self._answer_ids(_strings("candidates", candidates)), _IGNORED_LABEL))
        rows = [_strings(f"candidates[{index}]", row) for index, row in enumerate(candidates)]
        counts = {len(row) for row in rows}
        if len(counts) != 1 or 0 in counts:
            raise ValueError(
                f"candidates must hold equally many answers for every sample, at least one, got {sorted(counts)}"
            )
        flat = torch.tensor(_pad(self._answer_ids([answer for row in rows for answer in row]), _IGNORED_LABEL))
        return flat.reshape(len(rows), counts.pop(), -1)

    @property
    def model_input_names(self) -> list[str]:
        return [
            "pixel_values",
            "input_ids",
            "attention_mask",
            "qformer_input_ids",
            "qformer_attention_mask",
            "level_ids",
            "soft_prompt_mask",
        ]

    # --- Outputs ----------------------------------------------------------------------------------------------------

    def post_process_grounding(
        self, texts: str | Sequence[str], image_sizes: Sequence[tuple[int, int]] | tuple[int, int]
    ) -> list[dict[str, Any]]:
        """
        Reads the boxes out of decoded answers.

        Args:
            texts: B answers.
            image_sizes: (height, width) of each image in pixels, as shown (after EXIF rotation); one pair may stand
                for all.

        Returns:
            Per sample `boxes`, float32 of shape (N, 4), xyxy in pixels, N = 0 where the answer holds none, and
            `labels`, N strings: the words that name the box, or `""`.
        """
        texts = _strings("texts", texts)
        try:
            sizes: list[Any] = [_as_list(size) if hasattr(size, "__len__") else size for size in _as_list(image_sizes)]
        except TypeError:
            raise ValueError(f"image_sizes must be (height, width) for each text, got {image_sizes!r:.100}") from None
        if len(sizes) == 2 and not isinstance(sizes[0], list):
            sizes = [sizes] * len(texts)
        if len(sizes) != len(texts):
            raise ValueError(f"image_sizes: got {len(sizes)} for {len(texts)} texts; give (height, width) for each")
        results = []
        for index, (text, image_size) in enumerate(zip(texts, sizes)):
            labelled = label_boxes(text)
            try:
                boxes = to_pixels([box for _, box in labelled], image_size)
            except ValueError as error:
                raise ValueError(f"image_sizes[{index}]: {error}") from None
            results.append(
                {
                    "boxes": boxes,
                    "labels": [label for label, _ in labelled],
                }
            )
        return results


def _batch_feature(data: dict[str, Any], return_tensors: str | None) -> LionBatchFeature:
    if return_tensors is not None:
        for name, rows in data.items():
            lengths = {len(row) for row in rows if isinstance(row, list)}
            if len(lengths) > 1:
                raise ValueError(
                    f"`{name}` has rows of different lengths, of which `return_tensors={return_tensors!r}` can make no "
                    "tensor: set `padding=True`, or `return_tensors=None`"
                )
    return LionBatchFeature(data, tensor_type=return_tensors)


def _load_tokenizer(repo: str | os.PathLike, subfolder: str, kwargs: dict[str, Any]) -> Any:
    # With a configuration given, AutoTokenizer does not read the model's, whose code would need the user's consent.
    settings = {"config": PretrainedConfig(), "trust_remote_code": False, **kwargs}
    with named_tokenizer_errors(os.path.join(repo, subfolder)):
        tokenizer = AutoTokenizer.from_pretrained(repo, subfolder=subfolder, **settings)
        _restore_normalizer(tokenizer, repo, subfolder, kwargs)
        return tokenizer


def _restore_normalizer(tokenizer: Any, repo: str | os.PathLike, subfolder: str, kwargs: dict[str, Any]) -> None:
    """Normalise text as the file says: the T5 tokenizer of transformers 5.0 leaves it as it is, capitals included."""
    own = getattr(tokenizer, "backend_tokenizer", None)
    if own is None or own.normalizer is not None:
        return
    hub = {name: kwargs[name] for name in _HUB_ARGUMENTS if kwargs.get(name) is not None}
    file = _cached_file(repo, "tokenizer.json", subfolder, hub)
    if file and json.loads(Path(file).read_text(encoding="utf-8")).get("normalizer") is not None:
        own.normalizer = tokenizers.Tokenizer.from_file(file).normalizer


def _question_of(name: str, messages: Any) -> tuple[dict[str, Any], Any]:
    """The last message of a conversation and the image that it asks about, None where there is none."""
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise ValueError(f"{name} must hold messages, got {messages!r:.100}")
    images: list[list[Any]] = []
    for index, message in enumerate(messages):
        where = f"{name}[{index}]"
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise ValueError(f"{where} must be a dict with 'role' and 'content', got {message!r:.100}")
        content = message["content"]
        images.append([])
        if isinstance(content, str):
            continue
        if not isinstance(content, Sequence):
            raise ValueError(f"{where}['content'] must be a string or a list of parts, got {content!r:.100}")
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind in ("image", "image_url"):
                source = next((part[key] for key in _IMAGE_KEYS if part.get(key) is not None), None)
                if isinstance(source, Mapping) and "url" in source:
                    source = source["url"]
                images[-1].append(source)
            elif kind != "text" or not isinstance(part.get("text"), str):
                raise ValueError(
                    f"{where}['content'] must hold parts {{'type': 'text', 'text': ..}} and {{'type': 'image', ..}}, "
                    f"got {part!r:.100}"
                )
    last = messages[-1]
    if last["role"] != "user":
        raise ValueError(
            f"{name} must end with a message of the role 'user', got {last['role']!r:.100}: LION answers questions, "
            "and cannot go on with an answer"
        )
    own, earlier = images[-1], [image for found in images[:-1] for image in found]
    asked = own or earlier
    if len(asked) > 1:
        raise ValueError(f"{name} holds {len(asked)} images to look at; LION looks at one image per question")
    if len(messages) > 1:
        logger.warning_once("LION has no memory of turns: of a conversation, only the last message is asked.")
    texts = (
        [last["content"]] if isinstance(last["content"], str) else [p["text"] for p in last["content"] if "text" in p]
    )
    if not any(text.strip() for text in texts):
        raise ValueError(f"{name} must end with a message that holds text, the question")
    parts = [{"type": "text", "text": text} for text in texts if text.strip()]
    return {"role": "user", "content": parts}, asked[0] if asked else None


def _take_text_target(kwargs: dict[str, Any]) -> Any:
    """Removes `text_target` from the arguments and returns it."""
    target = kwargs.pop("text_target", None)
    for group in ("text_kwargs", "common_kwargs"):
        if kwargs.get(group) and "text_target" in kwargs[group]:
            kwargs[group] = dict(kwargs[group])
            nested = kwargs[group].pop("text_target")
            target = nested if target is None else target
    return target


def _check_length(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise ValueError(f"{name} must be an integer that is at least 2, got {value!r:.100}")


def _check_layout(text_kwargs: Mapping[str, Any]) -> None:
    """`ValueError` for values that `padding`, `truncation` and the like may not have."""
    if text_kwargs.get("max_length") is not None:
        _check_length("max_length", text_kwargs["max_length"])
    multiple = text_kwargs.get("pad_to_multiple_of")
    if multiple is not None and (isinstance(multiple, bool) or not isinstance(multiple, int) or multiple < 1):
        raise ValueError(f"pad_to_multiple_of must be a positive integer, got {multiple!r:.100}")
    for name, allowed, kind in [
        ("padding", (True, False, None, "longest", "max_length", "do_not_pad"), PaddingStrategy),
        ("truncation", (True, False, None, "longest_first", "only_first", "do_not_truncate"), TruncationStrategy),
        ("padding_side", (None, "left", "right"), ()),
        ("return_tensors", (None, "pt", "np"), transformers.TensorType),
    ]:
        value = text_kwargs.get(name)
        plain = value.value if isinstance(value, kind) else value
        # `is` for what is no string, as 1 is no True here
        if not any(plain == item if isinstance(item, str) else plain is item for item in allowed):
            shown = ", ".join(repr(item) for item in allowed if item is not None)
            raise ValueError(f"{name} must be one of {shown}, got {value!r:.100}")


def _as_list(values: Any) -> list:
    return values.tolist() if isinstance(values, (torch.Tensor, np.ndarray)) else list(values)


def _make_tokenizer_portable(config_file: str) -> None:
    """Rewrites a saved tokenizer configuration in the words that both major versions of transformers know."""
    with open(config_file, encoding="utf-8") as file:
        config = json.load(file)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    # Even at its default, version 4 answers it by a conversion from the SentencePiece file, which version 5 does not
    # save and which needs another library.
    if config.get("add_prefix_space") is True:
        del config["add_prefix_space"]
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    with open(config_file, "w", encoding="utf-8") as file:
        json.dump(config, file, indent=2, ensure_ascii=False)
        file.write("\n")


def _strings(name: str, values: Any) -> list[str]:
    if isinstance(values, str):
        _check_text(name, values)
        return [values]
    # Columns of datasets, arrays and series, but nothing without an order or an end.
    if not isinstance(values, Sequence) and not hasattr(values, "__array__"):
        raise TypeError(f"{name} must be a string or a list of strings, got {type(values).__name__}")
    values = list(values)
    for index, value in enumerate(values):
        _check_text(f"{name}[{index}]", value)
    if not values:
        raise ValueError(f"{name} must not be empty")
    return values


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r:.100}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} must be text, but holds a lone surrogate, {value[error.start]!r}, at position {error.start}"
        ) from None


def _tags_per_sample(tags: Any, count: int, single: bool) -> list[str | list[str] | None]:
    if isinstance(tags, str):
        _check_text("tags", tags)
    if tags is None or isinstance(tags, str):
        return [tags] * count
    if not isinstance(tags, Sequence):
        raise TypeError(
            f"tags must be a string, a list of strings, None, or a list of these, got {type(tags).__name__}"
        )
    if single and all(isinstance(tag, str) for tag in tags):
        tags = [list(tags)]
    if len(tags) != count:
        raise ValueError(f"tags: got {len(tags)} for {count} texts; give a string, a list of strings or None for each")
    for index, value in enumerate(tags):
        nested = isinstance(value, Sequence) and all(isinstance(tag, str) for tag in value)
        if value is not None and not nested:
            raise TypeError(f"tags[{index}] must be a string, a list of strings or None, got {value!r:.100}")
        if value is not None:
            _check_text(f"tags[{index}]", value if isinstance(value, str) else ", ".join(value))
    return [tag if tag is None or isinstance(tag, str) else list(tag) for tag in tags]


def _levels_per_sample(level: str | Sequence[str] | None, texts: list[str]) -> list[str]:
    level = "auto" if level is None else level
    if not isinstance(level, Sequence):
        raise TypeError(f"level must be a string or a list of strings, got {level!r:.100}")
    levels = [level] * len(texts) if isinstance(level, str) else list(level)
    if len(levels) != len(texts):
        raise ValueError(f"level: got {len(levels)} for {len(texts)} texts; give one for all or one for each")
    for name in levels:
        if name not in ("auto", *LEVELS):
            raise ValueError(f"level must be 'auto', 'image_level' or 'region_level', got {name!r:.100}")
    return [infer_level(text) if name == "auto" else name for name, text in zip(levels, texts)]


def _padded_length(sequences: list[list[int]], text_kwargs: dict[str, Any], limit: int) -> int | None:
    """The length to pad to by the tokenizers' `padding` rules; None to leave the sequences as they are."""
    padding = text_kwargs.get("padding")
    if padding in (False, None, "do_not_pad", PaddingStrategy.DO_NOT_PAD):
        return None
    length = max(len(ids) for ids in sequences)
    if padding in ("max_length", PaddingStrategy.MAX_LENGTH):
        length = max(length, text_kwargs.get("max_length") or limit)
    multiple = text_kwargs.get("pad_to_multiple_of") or 1
    return -(-length // multiple) * multiple


def _pad(sequences: list[list[int]], value: int, length: int | None = -1, side: str = "right") -> list[list[int]]:
    """Pads to `length`, by default that of the longest; None leaves the sequences as they are."""
    if length is None:
        return sequences
    if length == -1:
        length = max(len(ids) for ids in sequences)
    if side == "left":
        return [[value] * (length - len(ids)) + ids for ids in sequences]
    return [ids + [value] * (length - len(ids)) for ids in sequences]


if False:  # Never runs: names the files that belong to this one, for transformers to copy them.
    from .fetching_lion import __name__ as _
    from .image_loading_lion import __name__ as _
    from .image_processing_lion import __name__ as _
    from .remote_code_lion import __name__ as _
    from .grounding_lion import __name__ as _
    from .panics_lion import __name__ as _
    from .prompts_lion import __name__ as _
    from .levels_lion import __name__ as _
