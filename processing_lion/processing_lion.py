"""LION's processor: pictures, instructions, tags and answers in; tensors for the model, and words and boxes back."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack

from processing_lion.grounding_lion import label_boxes, to_pixels
from processing_lion.image_loading_lion import ImageSource
from processing_lion.image_processing_lion import LionImageProcessor
from processing_lion.prompts_lion import SOFT_PROMPT_TOKEN, format_tags
from processing_lion.remote_code_lion import PROCESSOR_CODE, write_code
from processing_lion.tasks_lion import TASKS, infer_task


_TRANSFORMERS_5 = int(transformers.__version__.split(".")[0]) >= 5
_IGNORED_LABEL = -100

# LION's conversations are one question on one picture: the text parts are the instruction, the picture has no token.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if not loop.first %} {% endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}"
    "{%- else -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}"
    "{%- if not loop.first %} {% endif -%}{{ part['text'] }}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
)


def add_qformer_bos_token(tokenizer: Any) -> Any:
    """
    Adds `[DEC]` as the beginning-of-sequence token to a BERT tokenizer that has none, as the official code does with
    `bert-base-uncased` (models/lion_t5.py). The Q-Former's vocabulary counts it: 30522 + 1. Returns the tokenizer.
    """
    if tokenizer.bos_token is None:
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer


class LionProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
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
        chat_template: by default one that prints the text parts of the messages.
        max_text_length: the most tokens of the prompt for T5, tag sentence and end token included.
        max_qformer_text_length: the most tokens of the instruction for the Q-Former.
        max_answer_length: the most tokens of an answer or candidate, end token included.
    """

    if not _TRANSFORMERS_5:  # transformers 5 reads the signature of __init__ instead
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
        for name, length in [
            ("max_qformer_text_length", max_qformer_text_length),
            ("max_answer_length", max_answer_length),
        ]:
            if length < 2:
                raise ValueError(f"{name} must be at least 2, got {length}")

    # --- Saving and loading -----------------------------------------------------------------------------------------

    @classmethod
    def _get_arguments_from_pretrained(cls, pretrained_model_name_or_path: str, *args: Any, **kwargs: Any) -> list:
        # transformers 4 would take the T5 tokenizer for both, and 5 would do so where the subfolder is missing. The
        # image processor is named, so that it needs no registration with AutoImageProcessor.
        subfolder = kwargs.pop("subfolder", "")
        qformer_subfolder = os.path.join(subfolder, "qformer_tokenizer")
        return [
            LionImageProcessor.from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs),
            AutoTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder=subfolder, **kwargs),
            AutoTokenizer.from_pretrained(pretrained_model_name_or_path, subfolder=qformer_subfolder, **kwargs),
        ]

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """
        Saves image processor, tokenizers and settings, the Q-Former's tokenizer in the subfolder `qformer_tokenizer`.
        What either major version of transformers saves, both load; the code is saved with it, for places where LION is
        not installed.
        """
        # Not above: the models' room uses this one.

        save_directory = os.fspath(save_directory)
        if not _TRANSFORMERS_5:
            self.qformer_tokenizer.save_pretrained(os.path.join(save_directory, "qformer_tokenizer"))
            self.attributes = ["image_processor", "tokenizer"]  # shadows the class's list for this call
        try:
            files = super().save_pretrained(save_directory)
        finally:
            self.__dict__.pop("attributes", None)
        for folder in (save_directory, os.path.join(save_directory, "qformer_tokenizer")):
            _make_tokenizer_portable(os.path.join(folder, "tokenizer_config.json"))
        write_code(save_directory, PROCESSOR_CODE)
        if push_to_hub:  # saves once more, to a folder of its own, so that all files are sent
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files

    # --- Inputs -----------------------------------------------------------------------------------------------------

    def __call__(
        self,
        images: ImageSource | Sequence[ImageSource] | None = None,
        text: str | Sequence[str] | None = None,
        tags: str | Sequence[str] | Sequence[str | Sequence[str] | None] | None = None,
        task: str | Sequence[str] = "auto",
        answers: str | Sequence[str] | None = None,
        **kwargs: Unpack[LionProcessorKwargs],
    ) -> BatchFeature:
        """
        Prepares a batch of B samples, each a picture, an instruction, and what else is known.

        Where the prompt for T5 is longer than `max_text_length`, whole tags are left out from the end of the list,
        then the question's head is cut; the tag sentence with its soft-prompt token stays. The Q-Former sees the
        instruction without tags, its head cut at `max_qformer_text_length`. Answers are cut at their end.

        Args:
            images: one picture per text: PIL image, path, URL, array or tensor, see [`load_image`]. None where
                features from `model.encode_images` are used, or where there is none.
            text: the instructions. A `<image>` in them is plain text. None to prepare pictures alone.
            tags: per sample a comma-separated string, a list of strings, or None for no tag sentence; an empty string
                or list gives the sentence with `[]`. One string or None holds for all samples. With a single string as
                `text`, a list of strings is this sample's list.
            task: `"image_level"`, `"region_level"`, or `"auto"` to decide by the instruction (see [`infer_task`]),
                one for all samples or one each.
            answers: the answers to learn, one per sample.
            kwargs: of the image processor (`size`, `do_normalize`, ..) and of the text: `padding` (True), `truncation`
                (True; of the prompt for T5), `max_length` (in place of `max_text_length`), `pad_to_multiple_of`,
                `return_tensors` ("pt").

        Returns:
            With `images`: `pixel_values` (B, 3, H, W) float32. With `text`, all int64: `input_ids`, `attention_mask`
            (B, L); `qformer_input_ids`, `qformer_attention_mask` (B, Lq); `task_ids` (B,), 0 for region level and 1
            for image level; `soft_prompt_mask` (B, L), 1 at the tag sentence's own `<extra_id_0>` alone, whatever
            tags and instruction hold. With `answers`: `labels` (B, T), end token included, padded with -100.

        Raises:
            ValueError: the arguments are not of one length, or hold values they may not hold.
            TypeError: an argument is of another type.
        """
        if images is None and text is None:
            raise ValueError("give images, text, or both")
        for name in ("videos", "audio"):
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"LION takes no {name}")
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
            data["task_ids"] = [TASKS.index(name) for name in _tasks_per_sample(task, texts)]
            if answers is not None:
                answers = _strings("answers", answers)
                if len(answers) != len(texts):
                    raise ValueError(f"answers: got {len(answers)} for {len(texts)} texts; give one for each")
                data["labels"] = _pad(self._answer_ids(answers), _IGNORED_LABEL)

        if images is not None:
            encoded = self.image_processor(images, **images_kwargs)
            count = len(encoded["pixel_values"])
            if text is not None and count != len(texts):
                raise ValueError(
                    f"images: got {count} for {len(texts)} texts; give one for each. To ask one picture several "
                    "questions, repeat it, or encode it once with model.encode_images and pass images=None here"
                )
            data = {**encoded, **data}
        return BatchFeature(data, tensor_type=return_tensors)

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
        if text_kwargs.get("truncation") not in (False, "do_not_truncate"):
            limit = text_kwargs.get("max_length") or self.max_text_length
            sequences = [
                ids if len(ids) <= limit else self._truncate(ids, text, tags, limit)
                for ids, text, tags in zip(sequences, texts, tag_lists)
            ]
        # The sentence's head is fixed, so its token is the first of its kind, whatever tags and text hold.
        masks = [[0] * len(ids) for ids in sequences]
        for ids, mask, tags in zip(sequences, masks, tag_lists):
            if tags is not None:
                mask[ids.index(self.soft_prompt_token_id)] = 1

        layout = {
            "length": _padded_length(sequences, text_kwargs, self.max_text_length),
            "side": text_kwargs.get("padding_side") or self.tokenizer.padding_side,
        }
        return {
            "input_ids": _pad(sequences, self.tokenizer.pad_token_id, **layout),
            "attention_mask": _pad([[1] * len(ids) for ids in sequences], 0, **layout),
            "soft_prompt_mask": _pad(masks, 0, **layout),
        }

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
        layout = {
            "length": _padded_length(sequences, {**text_kwargs, "max_length": None}, limit),
            "side": self.qformer_tokenizer.padding_side,
        }
        return {
            "qformer_input_ids": _pad(sequences, self.qformer_tokenizer.pad_token_id, **layout),
            "qformer_attention_mask": _pad([[1] * len(ids) for ids in sequences], 0, **layout),
        }

    def _answer_ids(self, answers: list[str]) -> list[list[int]]:
        return [
            ids if len(ids) <= self.max_answer_length else [*ids[: self.max_answer_length - 1], ids[-1]]
            for ids in self._tokenize(answers)
        ]

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
            raise TypeError(f"candidates must be a list of strings or a list of such lists, got {candidates!r}")
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
            "task_ids",
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
            image_sizes: (height, width) of each picture in pixels, as shown (after EXIF rotation); one pair may stand
                for all.

        Returns:
            Per sample `boxes`, float32 of shape (N, 4), xyxy in pixels, N = 0 where the answer holds none, and
            `labels`, N strings: the words that name the box, or `""`.
        """
        texts = _strings("texts", texts)
        sizes: list[Any] = image_sizes.tolist() if isinstance(image_sizes, torch.Tensor) else list(image_sizes)
        if len(sizes) == 2 and not isinstance(sizes[0], Sequence):
            sizes = [tuple(sizes)] * len(texts)
        if len(sizes) != len(texts):
            raise ValueError(f"image_sizes: got {len(sizes)} for {len(texts)} texts; give (height, width) for each")
        results = []
        for text, image_size in zip(texts, sizes):
            labelled = label_boxes(text)
            results.append(
                {
                    "boxes": to_pixels([box for _, box in labelled], image_size),
                    "labels": [label for label, _ in labelled],
                }
            )
        return results


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
        return [values]
    if not isinstance(values, Sequence):
        raise TypeError(f"{name} must be a string or a list of strings, got {type(values).__name__}")
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(f"{name}[{index}] must be a string, got {value!r}")
    if not values:
        raise ValueError(f"{name} must not be empty")
    return list(values)


def _tags_per_sample(tags: Any, count: int, single: bool) -> list[str | list[str] | None]:
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
            raise TypeError(f"tags[{index}] must be a string, a list of strings or None, got {value!r}")
    return [tag if tag is None or isinstance(tag, str) else list(tag) for tag in tags]


def _tasks_per_sample(task: str | Sequence[str], texts: list[str]) -> list[str]:
    tasks = [task] * len(texts) if isinstance(task, str) else list(task)
    if len(tasks) != len(texts):
        raise ValueError(f"task: got {len(tasks)} for {len(texts)} texts; give one for all or one for each")
    for name in tasks:
        if name not in ("auto", *TASKS):
            raise ValueError(f"task must be 'auto', 'image_level' or 'region_level', got {name!r}")
    return [infer_task(text) if name == "auto" else name for name, text in zip(tasks, texts)]


def _padded_length(sequences: list[list[int]], text_kwargs: dict[str, Any], limit: int) -> int | None:
    """The length to pad to by the tokenizers' `padding` rules; None to leave the sequences as they are."""
    padding = text_kwargs.get("padding")
    if padding in (False, None, "do_not_pad"):
        return None
    length = max(len(ids) for ids in sequences)
    if padding == "max_length":
        length = max(length, text_kwargs.get("max_length") or limit)
    elif padding not in (True, "longest"):
        raise ValueError(f"padding must be True, False, 'longest', 'max_length' or 'do_not_pad', got {padding!r}")
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
