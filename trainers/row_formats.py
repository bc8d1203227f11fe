"""
Rows in the formats that people have, recognised by their columns: from a file, a folder of images or a dataset to rows
of an image, a prompt and its answers.

    read = read_rows("annotations/instances.json", image_folder="images/")
    read.summary()     # "read as COCO detection, boxes as xywh in pixels: 2,408 rows, 3 left out: ..."
    read.to_dataset()  # for the trainer

What is left out is counted with its reason. The format of boxes is the one that is named, that the format of the file
prescribes, or that the boxes themselves leave as the only possible one; where several are possible, that is an error.
"""

import csv
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import datasets

from processing_lion import format_box, format_prompt, image_size, infer_level, parse_boxes
from trainers.opening import open_dataset
from trainers.rows import (
    IMAGE_COLUMNS,
    SPEAKERS,
    find_encoding_problem,
    read_completions,
    read_prompt,
    read_tags,
    split_exchanges,
)


logger = logging.getLogger(__name__)

BOX_FORMATS: Mapping[str, str] = {
    "xyxy_pixels": "two corners in pixels",
    "xywh_pixels": "corner, width and height in pixels",
    "xyxy_fractions": "two corners in fractions of the image",
    "xywh_fractions": "corner, width and height in fractions of the image",
    "xyxy_1000": "two corners from 0 to 1000",
}
_BOX_COLUMNS = ("bbox", "box", "boxes")
_EXPRESSION_COLUMNS = (
    "expression",
    "expressions",
    "sentences",
    "phrase",
    "captions",
    "caption",
    "sent",
    "text",
    "answer",
)
_ANSWER_COLUMNS = ("answer", "answers", "multiple_choice_answer")
_CAPTION_COLUMNS = ("caption", "captions", "text")
_IMAGE_SUFFIXES = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
_IGNORED_SIDECARS = (".caption", ".txt")
# Boxes may lie this far outside of an image by rounding: in pixels, and as a share of it.
_ROUNDING_PIXELS, _ROUNDING_SHARE = 1.0, 0.002
# Nearly all boxes of a dataset must fit the format that is taken, and many must not fit any other.
_FITS, _FITS_NOT = 0.98, 0.8
# With so many boxes in images smaller than this, some of 0 to 1000 would lie outside.
_ENOUGH_BOXES, _SMALL_IMAGE = 20, 900

EXPECTED = (
    "an image column (`image`, `images`, `file_name`, `image_path`, `img_path`, ...) with one of: `prompt` and "
    "`completion`; `question` and `answer` or `answers`; `text` or `caption`; `messages`; `conversations`; `bbox` with "
    "`expression`, `sentences` or `phrase`"
)


@dataclass
class ReadRows:
    """
    What was read.

    Args:
        name (`str`): The format.
        rows (`list[dict]`): Each with `image` (a path or address, or the number of its row in `base`), `prompt`,
            `completion` (a list of answers), `tags` (a string or None) and `level`.
        left_out (`Counter`): Reasons, with how many records or parts of them they kept out.
        base (`datasets.Dataset`, *optional*): The dataset that holds the images.
        image_column (`str`): Their column there.
        notes (`list[str]`): What was decided while reading, for example the format of the boxes.
    """

    name: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: Counter = field(default_factory=Counter)
    base: datasets.Dataset | None = None
    image_column: str = "image"
    notes: list[str] = field(default_factory=list)

    def summary(self) -> str:
        """One line: format, decisions, how many rows, and what was left out."""
        text = f"read as {', '.join([self.name, *self.notes])}: {len(self.rows):,} rows"
        if self.left_out:
            reasons = ", ".join(f"{count:,} × {reason}" for reason, count in self.left_out.most_common(5))
            text += f", {sum(self.left_out.values()):,} left out: {reasons}"
        return text

    def open_image(self, row: Mapping[str, Any]) -> Any:
        """What `load_image` takes for the image of a row."""
        image = row["image"]
        if not isinstance(image, int):
            return image
        assert self.base is not None
        value = _undecoded(self.base, self.image_column)[image][self.image_column]
        if isinstance(value, list):
            value = value[0] if value else None
        return (value.get("bytes") or value.get("path")) if isinstance(value, Mapping) else value

    def to_dataset(self) -> datasets.Dataset:
        """The rows with the columns `image` (undecoded), `prompt`, `completion`, `tags` and `level`."""
        names = ("prompt", "completion", "tags", "level")
        features = datasets.Features(
            {
                "prompt": datasets.Value("string"),
                "completion": datasets.List(datasets.Value("string")),
                "tags": datasets.Value("string"),
                "level": datasets.Value("string"),
            }
        )
        texts = datasets.Dataset.from_dict({n: [row[n] for row in self.rows] for n in names}, features=features)
        image_feature = datasets.Features({"image": datasets.Image(decode=False)})
        if self.base is None:
            images = datasets.Dataset.from_dict(
                {"image": [str(row["image"]) for row in self.rows]}, features=image_feature
            )
        else:
            images = _undecoded(self.base, self.image_column).select([row["image"] for row in self.rows])
            if isinstance(images.features[self.image_column], datasets.List):
                column = self.image_column
                images = images.map(
                    lambda row: {"image": row[column][0] if row[column] else None},
                    remove_columns=images.column_names,
                    features=image_feature,
                )
            elif self.image_column != "image":
                images = images.rename_column(self.image_column, "image")
            images = images.cast_column("image", datasets.Image(decode=False))
        return datasets.concatenate_datasets([images, texts], axis=1)


def read_rows(
    data: str | os.PathLike | datasets.Dataset,
    *,
    image_folder: str | os.PathLike | None = None,
    box_format: str | None = None,
    annotations: str | os.PathLike | None = None,
    level: str = "auto",
    split: str | None = None,
) -> ReadRows:
    """
    Read rows in any of the known formats.

    Args:
        data (`str`, `Path` or `datasets.Dataset`):
            A `.json`, `.jsonl`, `.csv`, `.tsv` or `.parquet` file; a folder of images with `metadata.jsonl|csv` or with
            a text file beside each image; a directory written by `save_to_disk`; or `HUB_NAME[:SPLIT]`.
        image_folder (`str`, *optional*): What file names are relative to. Defaults to the data's own folder.
        box_format (`str`, *optional*): One of `BOX_FORMATS`, where the data do not say it themselves.
        annotations (`str`, *optional*): The file of answers to VQAv2's file of questions, where it has another name.
        level (`str`): The level of all rows; `"auto"` decides row by row.
        split (`str`, *optional*): Of a dataset with several.

    Raises:
        ValueError: no known format, no usable row, or boxes of which nobody can tell the format. The message names it.
        OSError: there is no such file.
    """
    if box_format is not None and box_format not in BOX_FORMATS:
        raise ValueError(f"`box_format` must be one of {list(BOX_FORMATS)}, got {box_format!r:.100}.")
    if isinstance(data, datasets.Dataset):
        read = _read_dataset(data, box_format, image_folder)
    else:
        read = _read_path(str(data), image_folder, box_format, annotations, split)
    for row in read.rows:
        if level != "auto":
            row["level"] = level
    if not read.rows:
        raise ValueError(f"{data} holds no usable row: {read.summary()}.")
    return read


# --- Where records come from ---


def _read_path(
    data: str,
    image_folder: str | os.PathLike | None,
    box_format: str | None,
    annotations: str | os.PathLike | None,
    split: str | None,
) -> ReadRows:
    path = Path(data).expanduser()
    if path.is_dir():
        if (path / "state.json").is_file() or (path / "dataset_dict.json").is_file():
            return _read_dataset(_pick_split(open_dataset(data), split, data), box_format, image_folder)
        for name in ("metadata.jsonl", "metadata.csv"):
            if (path / name).is_file():
                records, torn = _read_table(path / name)
                return _read_records(records, Images(image_folder or path), box_format, torn)
        if any(_find_images(path)):
            return _read_sidecars(path)
        return _read_dataset(_load_dataset(data, split), box_format, image_folder)
    if path.is_file():
        images = Images(image_folder or path.parent)
        if path.suffix in (".jsonl", ".csv", ".tsv"):
            records, torn = _read_table(path)
            return _read_records(records, images, box_format, torn)
        if path.suffix == ".json":
            return _read_json(path, images, box_format, annotations)
        if path.suffix in (".parquet", ".arrow"):
            return _read_dataset(open_dataset(data, split="train"), box_format, image_folder or path.parent)
        raise ValueError(f"{path}: expected .json, .jsonl, .csv, .tsv, .parquet or a folder, got {path.suffix!r:.100}.")
    if path.is_absolute() or data.startswith((".", "~")) or path.suffix in (".json", ".jsonl", ".csv", ".parquet"):
        raise FileNotFoundError(f"There is no file or folder {data}.")
    name, _, named_split = data.partition(":")
    return _read_dataset(_load_dataset(name, named_split or split or "train"), box_format, image_folder)


def _load_dataset(name: str, split: str | None) -> datasets.Dataset:
    try:
        return _pick_split(open_dataset(name, split=split), None, name)
    except Exception as error:  # whatever the Hub, a script or a file in it has to say
        raise ValueError(f"{name!r} can't be read as a dataset: {type(error).__name__}: {error}") from error


def _pick_split(loaded: Any, split: str | None, name: str) -> datasets.Dataset:
    if isinstance(loaded, datasets.Dataset):
        return loaded
    wanted = split or ("train" if "train" in loaded else next(iter(loaded)) if len(loaded) == 1 else None)
    if wanted not in loaded:
        raise ValueError(f"{name}: `split` must be one of {list(loaded)}, got {wanted!r:.100}.")
    return loaded[wanted]


def read_utf8(path: Path) -> str:
    """The text of a file, a byte-order mark left out; an error that names the file where it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None


def _read_table(path: Path) -> tuple[list[dict[str, Any]], Counter]:
    """The records of JSON Lines or CSV, and what kept lines out."""
    text = read_utf8(path)
    torn: Counter[str] = Counter()
    if path.suffix != ".jsonl":
        delimiter = "\t" if path.suffix == ".tsv" else ","
        return list(csv.DictReader(text.splitlines(keepends=True), delimiter=delimiter)), torn
    records = []
    for line in text.split("\n"):  # not splitlines: JSON strings may hold other ends of lines
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            torn["is no JSON record"] += 1
    return records, torn


def _read_json(path: Path, images: "Images", box_format: str | None, annotations: str | os.PathLike | None) -> ReadRows:
    try:
        content = json.loads(read_utf8(path))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}" if path.name not in str(error) else str(error)) from None
    if isinstance(content, list):
        records = [record for record in content if isinstance(record, dict)]
        torn = Counter({"is no JSON record": len(content) - len(records)} if len(records) < len(content) else {})
        if records and "regions" in records[0]:
            return _read_regions(records, images, torn)
        return _read_records(records, images, box_format, torn)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a list or an object, got {type(content).__name__}.")
    if "questions" in content:
        return _read_vqa(path, content, images, annotations)
    if "annotations" in content:
        sample = next((a for a in content["annotations"] if isinstance(a, dict)), {})
        if "caption" in sample:
            return _read_coco_captions(content, images)
        if "bbox" in sample:
            return _read_coco_detection(content, images)
        if "question_id" in sample:
            raise ValueError(
                f"{path} holds VQAv2's annotations: give the file of questions, which finds them by itself."
            )
    for key in ("data", "rows", "train"):
        if isinstance(content.get(key), list):
            return _read_records([r for r in content[key] if isinstance(r, dict)], images, box_format, Counter())
    raise ValueError(
        f"{path}: an object with {sorted(content)[:8]}; expected a list of rows, or COCO's or VQAv2's `images`, "
        "`annotations`, `questions`."
    )


def _find_images(folder: Path) -> Iterator[Path]:
    for directory, subfolders, files in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in _IMAGE_SUFFIXES:
                yield Path(directory) / name


def _read_sidecars(folder: Path) -> ReadRows:
    """Kohya's: `1.jpg` with its caption in `1.txt`."""
    read = ReadRows("captions in text files beside the images")
    prompt = format_prompt("caption_short")
    for image in _find_images(folder):
        file = next((f for s in _IGNORED_SIDECARS if (f := image.with_suffix(s)).is_file()), None)
        if file is None:
            read.left_out["has no text file beside the image"] += 1
            continue
        try:
            captions = [read_utf8(file).strip()]
        except ValueError:
            read.left_out["its text file is not UTF-8"] += 1
            continue
        _add(read, str(image), prompt, captions, "image_level")
    return read


def _undecoded(dataset: datasets.Dataset, column: str) -> datasets.Dataset:
    """The images alone, so that no other column is read."""
    images = dataset.select_columns(column)
    feature = images.features[column]
    if isinstance(feature, datasets.Image):
        return images.cast_column(column, datasets.Image(decode=False))
    if isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
        return images.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return images


def _read_dataset(
    dataset: datasets.Dataset, box_format: str | None, image_folder: str | os.PathLike | None
) -> ReadRows:
    column = next((name for name in IMAGE_COLUMNS if name in dataset.column_names), None)
    if column is None:
        raise ValueError(f"no image column among {dataset.column_names}; expected {EXPECTED}.")
    feature = dataset.features[column]
    if isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string"):
        return _read_records(list(dataset.with_format(None)), Images(image_folder or "."), box_format, Counter())
    others = dataset.remove_columns(column)
    # Numbers stand in for the images until somebody looks at them.
    records = [{**record, column: index} for index, record in enumerate(others)]
    if not records:
        raise ValueError("the dataset has no rows.")
    read = ReadRows("", base=dataset, image_column=column)
    return _read_records(records, Images(".", read), box_format, Counter(), read)


class Images:
    """
    Finds images by their names, and tells their sizes.

    Args:
        folder (`str` or `Path`): What names are relative to.
        read ([`ReadRows`], *optional*): What holds a dataset of images, of which the names are numbers.
    """

    def __init__(self, folder: str | os.PathLike, read: ReadRows | None = None):
        self.folder = Path(folder).expanduser()
        self.read = read
        self.size = cache(self._size)

    def find(self, *names: Any) -> Any:
        """The first that is there; `ValueError` says what was looked for."""
        for name in names:
            if isinstance(name, list):
                if len(name) != 1:
                    raise ValueError(f"has {len(name)} images; LION reads one")
                name = name[0]
            if isinstance(name, Mapping):
                name = name.get("path") or name.get("file_name")
            if isinstance(name, int) and self.read is not None:
                return name
            if not isinstance(name, str) or not name:
                continue
            if name.startswith(("http://", "https://", "data:")):
                return name
            if (self.folder / name).is_file():
                return str(self.folder / name)
        if any(isinstance(name, str) and name for name in names):
            raise ValueError("its image file does not exist")
        raise ValueError("has no image")

    def find_coco(self, image: Mapping[str, Any], image_id: Any, folder: str = "") -> Any:
        """An image of COCO or Visual Genome by its record, or by its number."""
        names = [image.get("file_name"), image.get("image_path")]
        if isinstance(image_id, int):
            names += [f"COCO_{folder}_{image_id:012d}.jpg"] if folder else []
            names += [f"{image_id:012d}.jpg", f"{image_id}.jpg", f"{image_id}.png"]
        url = image.get("url") or image.get("coco_url")
        if isinstance(url, str):
            # Visual Genome's file name, whose folder the address keeps.
            names += ["/".join(url.split("/")[-2:]), url.split("/")[-1]]
        return self.find(*names)

    def _size(self, image: Any) -> tuple[int, int]:
        if isinstance(image, int):
            assert self.read is not None
            image = self.read.open_image({"image": image})
        return image_size(image)


# --- Records with columns ---


def _add(
    read: ReadRows, image: Any, prompt: str, completions: Sequence[str], level: str = "auto", tags: Any = None
) -> None:
    answers = [text for text in map(str.strip, completions) if text]
    problem = (
        ("has an empty question" if not prompt.strip() else None)
        or ("has an empty answer" if not answers else None)
        or find_encoding_problem("texts", prompt, *answers)
    )
    if problem is not None:
        read.left_out[problem] += 1
        return
    if level == "auto":
        level = "region_level" if parse_boxes(prompt) or parse_boxes(answers[0]) else infer_level(prompt)
    read.rows.append(
        {"image": image, "prompt": prompt.strip(), "completion": answers, "tags": read_tags(tags), "level": level}
    )


def _read_records(
    records: list[dict[str, Any]],
    images: Images,
    box_format: str | None,
    torn: Counter,
    read: ReadRows | None = None,
) -> ReadRows:
    columns = list(dict.fromkeys(name for record in records[:1000] for name in record))
    name, convert = _recognise(columns)
    read = read if read is not None else ReadRows("")
    read.name = name
    read.left_out.update(torn)
    if convert is _referring:
        return _read_referring(read, records, images, box_format)
    for record in records:
        try:
            image = images.find(*[record.get(column) for column in IMAGE_COLUMNS])
            convert(read, record, image)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
            read.left_out[_reason(error)] += 1
    return read


def _reason(error: Exception) -> str:
    return str(error)[:120] if type(error) is ValueError else f"can't be read ({type(error).__name__}: {error})"[:120]


def _recognise(columns: Sequence[str]) -> tuple[str, Callable[..., None]]:
    names = set(columns)
    if "conversations" in names:
        return "LLaVA conversations", _conversation
    if "messages" in names:
        return "messages", _messages
    if {"prompt", "completion"} <= names:
        return "prompt and completion", _prompt_completion
    if names & set(_BOX_COLUMNS) and names & set(_EXPRESSION_COLUMNS):
        return "referring expressions with boxes", _referring
    if "question" in names and names & set(_ANSWER_COLUMNS):
        return "questions and answers", _question
    if names & set(_CAPTION_COLUMNS):
        return "captions", _caption
    raise ValueError(f"no known format: the columns are {columns}; expected {EXPECTED}.")


def _prompt_completion(read: ReadRows, record: Mapping[str, Any], image: Any) -> None:
    completions = read_completions(_maybe_json(record.get("completion")))
    level = record.get("level") or "auto"
    _add(read, image, read_prompt(record.get("prompt")), completions, level, _tags(record))


def _question(read: ReadRows, record: Mapping[str, Any], image: Any) -> None:
    question = read_prompt(record.get("question"))
    for name in ("answers", "multiple_choice_answer", "answer"):
        answers = _answers(record.get(name))
        if answers:
            break
    _ask(read, image, question, answers, _tags(record))


def _ask(read: ReadRows, image: Any, question: str, answers: Sequence[str], tags: Any = None) -> None:
    """A question in LION's own wording for VQA, unless it is about a place."""
    region = any(map(parse_boxes, (question, *answers[:1]))) or infer_level(question) == "region_level"
    prompt = question if region or not question else format_prompt("vqa", question=question)
    _add(read, image, prompt, answers, "region_level" if region else "image_level", tags)


def _answers(value: Any) -> list[str]:
    """Answers as a string, a list of strings, or VQAv2's records. Repeats stay: each epoch picks one of them."""
    value = _maybe_json(value)
    if isinstance(value, Mapping):
        value = value.get("text", value.get("answer", value.get("answers")))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [text for item in value for text in _answers(item)]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return []
    return [str(value).strip()]


def _maybe_json(value: Any) -> Any:
    """A list of strings in a cell of a CSV file. Numbers in brackets are a box, or what is left of one."""
    if isinstance(value, str) and value[:1] == "[" and value[-1:] == "]":
        try:
            items = json.loads(value)
        except ValueError:
            return value
        if items and all(isinstance(item, (str, Mapping)) for item in items):
            return items
    return value


def _tags(record: Mapping[str, Any]) -> Any:
    tags = _maybe_json(record.get("tags"))
    return tags if isinstance(tags, (str, list)) else None


def _caption(read: ReadRows, record: Mapping[str, Any], image: Any) -> None:
    captions = next(filter(None, (_answers(record.get(name)) for name in _CAPTION_COLUMNS)), [])
    _add(read, image, format_prompt("caption_short"), captions, "image_level", _tags(record))


def _messages(read: ReadRows, record: Mapping[str, Any], image: Any) -> None:
    exchanges = split_exchanges(record.get("messages"))
    if not exchanges:
        raise ValueError("has no user message that an assistant's follows")
    for prompt, completions in exchanges:
        _add(read, image, prompt, completions, record.get("level") or "auto", _tags(record))


def _conversation(read: ReadRows, record: Mapping[str, Any], image: Any) -> None:
    """LLaVA's turns; Shikra's hold `<boxes>`, which stand for boxes of the record in pixels."""
    boxes = None
    if isinstance(record.get("target"), Mapping) and record["target"].get("boxes") is not None:
        size = _given_size(record.get("image")) or _given_size(record)
        if size is None:
            raise ValueError("has boxes in pixels, but no width and height")
        boxes = [convert_box(box, "xyxy_pixels", size) for box in record["target"]["boxes"]]
    messages = []
    for turn in record["conversations"]:
        text = re.sub(r"\s*<image>\s*\n|\n\s*<image>\s*", "\n", str(turn["value"])).strip()
        if boxes is not None:
            text = _fill_boxes(text, turn.get("boxes_seq") or [], boxes)
        messages.append({"role": SPEAKERS.get(turn["from"], turn["from"]), "content": text})
    exchanges = split_exchanges(messages)
    if not exchanges:
        raise ValueError("has no human turn that an answer follows")
    for prompt, completions in exchanges:
        _add(read, image, prompt, completions)


def _fill_boxes(text: str, sequence: Sequence[Sequence[int]], boxes: Sequence[Sequence[float]]) -> str:
    parts = text.split("<boxes>")
    if len(parts) - 1 != len(sequence):
        raise ValueError("has another number of `<boxes>` than of `boxes_seq`")
    filled = [";".join(format_box(boxes[index])[1:-1] for index in group) for group in sequence]
    return parts[0] + "".join(f"[{group}]{part}" for group, part in zip(filled, parts[1:]))


# --- Boxes ---


def convert_box(box: Any, box_format: str, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """
    A box of a known format as fractions `(x1, y1, x2, y2)`.

    Args:
        box (`Sequence`): Four numbers.
        box_format (`str`): One of `BOX_FORMATS`.
        size (`tuple[int, int]`): Width and height of the image.

    Raises:
        ValueError: it is no box, or lies outside of the image.
    """
    values = read_box(box)
    corners, unit = box_format.split("_")
    if corners == "xywh":
        values = (values[0], values[1], values[0] + values[2], values[1] + values[3])
    scale = {"pixels": (*size, *size), "1000": (1000.0,) * 4, "fractions": (1.0,) * 4}[unit]
    slack = [_ROUNDING_PIXELS / s if unit != "fractions" else _ROUNDING_SHARE for s in scale]
    fractions = [value / s for value, s in zip(values, scale)]
    if any(not -e <= f <= 1 + e for f, e in zip(fractions, slack)):
        raise ValueError("has a box outside of the image")
    x1, y1, x2, y2 = (min(max(f, 0.0), 1.0) for f in fractions)
    if x1 >= x2 or y1 >= y2:
        raise ValueError("has a box without area")
    return x1, y1, x2, y2


def read_box(value: Any) -> tuple[float, float, float, float]:
    """Four finite numbers, from a list, a list of one such, or text such as `"[1, 2, 3, 4]"`."""
    if isinstance(value, str):
        numbers = re.findall(r"-?\d+(?:\.\d+)?(?:[eE]-?\d+)?", value)
        value = [float(number) for number in numbers]
    if isinstance(value, Sequence) and len(value) == 1 and isinstance(value[0], Sequence):
        value = value[0]
    if not isinstance(value, Sequence) or len(value) != 4:
        raise ValueError("has a box that is no four numbers")
    sides = tuple(float(v) for v in value)
    if not all(map(math.isfinite, sides)):
        raise ValueError("has a box that is not finite")
    return sides  # type: ignore[return-value]


def tell_box_format(boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]]) -> str:
    """
    The only format that boxes can have.

    Args:
        boxes (`Sequence`): Boxes as they are written.
        sizes (`Sequence`): Width and height of the image of each.

    Raises:
        ValueError: none fits, or several do; it says which.
    """
    if not boxes:
        raise ValueError("There is no box to tell the format by.")
    fractional = all(abs(value) <= 1 for box in boxes for value in box)
    candidates = [name for name in BOX_FORMATS if name.endswith("_fractions") == fractional]
    share = {name: _share_that_fits(boxes, sizes, name) for name in candidates}
    if not fractional and len(boxes) >= _ENOUGH_BOXES and max(max(size) for size in sizes) < _SMALL_IMAGE:
        in_pixels = max(share["xyxy_pixels"], share["xywh_pixels"])
        if in_pixels >= _FITS:
            del share["xyxy_1000"]  # of so many, some would lie outside of such images
    possible = [name for name, fits in share.items() if fits >= _FITS_NOT]
    if len(possible) == 1 and share[possible[0]] >= _FITS:
        return possible[0]
    shares = ", ".join(f"{name} fits {fits:.0%}" for name, fits in share.items())
    raise ValueError(f"The format of {len(boxes)} boxes can't be told ({shares}): name it (`box_format`).")


def _share_that_fits(boxes: Sequence[Sequence[float]], sizes: Sequence[tuple[int, int]], box_format: str) -> float:
    fitting = 0
    for box, size in zip(boxes, sizes):
        try:
            convert_box(box, box_format, size)
        except ValueError:
            continue
        fitting += 1
    return fitting / len(boxes)


def _given_size(record: Any) -> tuple[int, int] | None:
    if not isinstance(record, Mapping):
        return None
    for w, h in (("width", "height"), ("image_width", "image_height"), ("img_width", "img_height")):
        if record.get(w) and record.get(h):
            return int(record[w]), int(record[h])
    return None


def _referring(read: ReadRows, record: Mapping[str, Any], image: Any) -> None:
    """Read by [`_read_referring`], which looks at all boxes first."""


def _read_referring(
    read: ReadRows, records: Sequence[Mapping[str, Any]], images: Images, box_format: str | None
) -> ReadRows:
    found = []
    for record in records:
        try:
            image = images.find(*[record.get(column) for column in IMAGE_COLUMNS])
            box = read_box(next(record[name] for name in _BOX_COLUMNS if record.get(name) not in (None, "")))
            expressions = _expressions(record)
            found.append((image, box, _given_size(record) or images.size(image), expressions, _tags(record)))
        except StopIteration:
            read.left_out["has no box"] += 1
        except (ValueError, TypeError, KeyError, OSError) as error:
            read.left_out[_reason(error)] += 1
    if not found:
        return read
    if box_format is None:
        box_format = tell_box_format([box for _, box, *_ in found], [size for _, _, size, *_ in found])
    read.notes.append(f"boxes as {box_format} ({BOX_FORMATS[box_format]})")
    for image, box, size, expressions, tags in found:
        try:
            _add_region(read, image, expressions, convert_box(box, box_format, size), tags)
        except ValueError as error:
            read.left_out[_reason(error)] += 1
    return read


def _expressions(record: Mapping[str, Any]) -> list[str]:
    for name in _EXPRESSION_COLUMNS:
        value = _maybe_json(record.get(name))
        items = value if isinstance(value, list) else [value]
        texts = []
        for item in items:
            if isinstance(item, Mapping):
                item = item.get("sent") or item.get("raw") or item.get("text")
            if isinstance(item, str) and item.strip():
                texts.append(item.strip())
        if texts:
            return list(dict.fromkeys(texts))
    raise ValueError("has no expression")


def _add_region(
    read: ReadRows,
    image: Any,
    expressions: Sequence[str],
    box: Sequence[float],
    tags: Any = None,
    locate: bool = True,
) -> None:
    """A row of REC for each expression, and one of REG for the box."""
    text = format_box(box)
    if locate:
        for expression in expressions:
            _add(read, image, format_prompt("rec", expression=expression), [text], "region_level", tags)
    _add(read, image, format_prompt("reg", box=text), list(expressions), "region_level", tags)


# --- Documents ---


def _read_coco_captions(content: Mapping[str, Any], images: Images) -> ReadRows:
    read = ReadRows("COCO captions")
    by_id = {image.get("id"): image for image in content.get("images", [])}
    captions: dict[Any, list[str]] = {}
    for annotation in content["annotations"]:
        captions.setdefault(annotation.get("image_id"), []).append(str(annotation.get("caption") or ""))
    prompt = format_prompt("caption_short")
    for image_id, texts in captions.items():
        try:
            _add(read, images.find_coco(by_id.get(image_id, {}), image_id), prompt, texts, "image_level")
        except ValueError as error:
            read.left_out[_reason(error)] += 1
    return read


def _read_coco_detection(content: Mapping[str, Any], images: Images) -> ReadRows:
    """REG for every object; REC for those that are the only one of their category in the image."""
    read = ReadRows("COCO detection", notes=["boxes as xywh_pixels (COCO's)"])
    names = {category["id"]: category["name"] for category in content.get("categories", [])}
    if not names:
        raise ValueError("COCO detection needs `categories` with `id` and `name`, but the file has none.")
    by_id = {image.get("id"): image for image in content.get("images", [])}
    objects: dict[Any, list[Mapping[str, Any]]] = {}
    for annotation in content["annotations"]:
        objects.setdefault(annotation.get("image_id"), []).append(annotation)
    for image_id, annotations in objects.items():
        try:
            record = by_id.get(image_id, {})
            image = images.find_coco(record, image_id)
            size = _given_size(record) or images.size(image)
        except (ValueError, OSError) as error:
            read.left_out[_reason(error)] += len(annotations)
            continue
        counts = Counter(annotation.get("category_id") for annotation in annotations)
        for annotation in annotations:
            if annotation.get("iscrowd"):
                read.left_out["is a crowd"] += 1
                continue
            try:
                category = annotation.get("category_id")
                if category not in names:
                    raise ValueError("has an unknown category")
                box = convert_box(annotation.get("bbox"), "xywh_pixels", size)
                alone = counts[category] == 1
                article = "the" if alone else "an" if names[category][:1].lower() in "aeiou" else "a"
                _add_region(read, image, [f"{article} {names[category]}"], box, locate=alone)
            except (ValueError, TypeError) as error:
                read.left_out[_reason(error)] += 1
    return read


def _read_vqa(
    path: Path, content: Mapping[str, Any], images: Images, annotations: str | os.PathLike | None
) -> ReadRows:
    read = ReadRows("VQAv2 questions and annotations")
    file = Path(annotations) if annotations is not None else _find_annotations(path)
    answers = json.loads(read_utf8(file))
    if not isinstance(answers, dict) or not isinstance(answers.get("annotations"), list):
        raise ValueError(f"{file}: expected an object with `annotations`.")
    by_question = {a.get("question_id"): a for a in answers["annotations"] if isinstance(a, dict)}
    folder = str(content.get("data_subtype") or answers.get("data_subtype") or "")
    for question in content["questions"]:
        try:
            answer = by_question.get(question.get("question_id"))
            if answer is None:
                raise ValueError("has no annotation")
            image = images.find_coco(question, question.get("image_id"), folder)
            given = _answers(answer.get("answers")) or _answers(answer.get("multiple_choice_answer"))
            _ask(read, image, str(question.get("question") or "").strip(), given)
        except ValueError as error:
            read.left_out[_reason(error)] += 1
    return read


def _find_annotations(path: Path) -> Path:
    names = [
        path.name.replace("OpenEnded_", "").replace("MultipleChoice_", "").replace("questions", "annotations"),
        path.name.replace("questions", "annotations"),
        "annotations.json",
    ]
    for name in names:
        if name != path.name and (path.parent / name).is_file():
            return path.parent / name
    raise ValueError(f"{path} holds VQAv2's questions; their annotations are in none of {names[:2]}: name the file.")


def _read_regions(records: Sequence[Mapping[str, Any]], images: Images, torn: Counter) -> ReadRows:
    read = ReadRows("Visual Genome regions", notes=["boxes as xywh_pixels (Visual Genome's)"], left_out=torn)
    for record in records:
        image_id = record.get("id", record.get("image_id"))
        regions = record.get("regions") or []
        try:
            image = images.find_coco(record, image_id)
            size = _given_size(record) or images.size(image)
        except (ValueError, OSError) as error:
            read.left_out[_reason(error)] += len(regions)
            continue
        for region in regions:
            try:
                phrase = str(region.get("phrase") or "").strip().rstrip(".")
                if not phrase:
                    raise ValueError("has an empty phrase")
                box = convert_box([region[key] for key in ("x", "y", "width", "height")], "xywh_pixels", size)
                _add_region(read, image, [phrase], box)
            except (ValueError, TypeError, KeyError) as error:
                read.left_out[_reason(error)] += 1
    return read
