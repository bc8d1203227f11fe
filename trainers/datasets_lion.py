"""From the sources of a recipe to one dataset of uniform rows, map-style or streaming."""

import dataclasses
import importlib
import json
import logging
import os
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from modeling_lion.extras_lion import needs_extra
from processing_lion import LEVELS, PROMPT_TEMPLATES, format_box, format_prompt
from trainers.opening import open_dataset
from trainers.recipe import SourceRecipe
from trainers.row_formats import read_rows
from trainers.rows import (
    EXPECTED_COLUMNS,
    BadRows,
    find_encoding_problem,
    find_missing_image,
    find_text_problem,
    read_completions,
    read_exchange,
    read_image_source,
    read_prompt,
    read_tags,
    split_exchanges,
)


with needs_extra("train", "build_dataset"):
    import datasets
    import pyarrow as pa
    import pyarrow.compute as pc
    from accelerate import PartialState
    from datasets.exceptions import DatasetGenerationError


logger = logging.getLogger(__name__)

# Images stay undecoded until a process needs them for its own batch.
ROW_FEATURES = datasets.Features(
    {
        "image": datasets.Image(decode=False),
        "prompt": datasets.Value("string"),
        "completion": datasets.List(datasets.Value("string")),
        "tags": datasets.Value("string"),
        "level": datasets.Value("string"),
        "augment": datasets.Value("bool"),
        "source": datasets.Value("string"),
        "index": datasets.Value("int64"),
    }
)

AnyDataset: TypeAlias = datasets.Dataset | datasets.IterableDataset
TagRows: TypeAlias = Callable[[SourceRecipe, datasets.Dataset], Sequence[Any]]


def build_dataset(
    sources: Sequence[SourceRecipe],
    seed: int = 42,
    bad_rows: BadRows | None = None,
    tag_rows: TagRows | None = None,
    training: bool = True,
    process_index: int = 0,
    num_processes: int = 1,
) -> AnyDataset:
    """
    Load, check and mix sources.

    Args:
        sources (`Sequence[SourceRecipe]`): At least one.
        seed (`int`): Of the mixture and of the shuffling of streams.
        bad_rows ([`BadRows`], *optional*): What happens to unusable rows; by default they are skipped and logged.
        tag_rows (`Callable`, *optional*):
            `tag_rows(source, images)` gives the tags of every row of a dataset with the column `image`; needed
            for sources with `tags: tagger`.
        training (`bool`):
            Whether streams are shuffled and start again when they end, so that `max_steps` alone says how long training
            lasts. Map-style datasets are shuffled by the trainer's sampler.
        process_index, num_processes (`int`):
            This process among those that train together. Each of them streams rows of its own, whole shards where their
            number allows it. Map-style datasets are the same everywhere: the trainer's sampler divides them.

    Returns:
        `datasets.Dataset` or, if any source streams, `datasets.IterableDataset`, with the columns of `ROW_FEATURES`.

    Raises:
        ValueError: no source, or one that cannot be used; the message names it.
    """
    if not sources:
        raise ValueError("`sources` is empty: a stage needs at least one dataset.")
    bad_rows = bad_rows or BadRows()
    share = (process_index, num_processes)
    loaded = [load_source(source, seed, bad_rows, tag_rows, training, *share) for source in sources]
    rows = mix(loaded, [source.weight for source in sources], seed, *share)
    if isinstance(rows, datasets.IterableDataset) and training:
        # The position tells the passes over a stream apart where a row is augmented.
        rows = rows.repeat(None).map(
            lambda row, position: {"position": position},
            with_indices=True,
            features=datasets.Features({**ROW_FEATURES, "position": datasets.Value("int64")}),
        )
    return rows


def mix(
    loaded: Sequence[AnyDataset],
    weights: Sequence[float | None],
    seed: int = 42,
    process_index: int = 0,
    num_processes: int = 1,
) -> AnyDataset:
    """
    One dataset from several. With weights, rows are drawn by them until every source was used up once; without,
    map-style sources are concatenated, and streams, whose lengths nobody knows, take turns. Beside streams, which hold
    this process's rows already, map-style sources are divided among the processes as well.
    """
    given = [weight for weight in weights if weight is not None]
    if len(given) not in (0, len(weights)):
        raise ValueError("`weight` must be given for all sources or for none.")
    if len(loaded) == 1:
        return loaded[0]
    streaming = any(isinstance(d, datasets.IterableDataset) for d in loaded)
    if streaming:
        loaded = [
            d
            if isinstance(d, datasets.IterableDataset)
            else _to_stream(_own_rows(d.shuffle(seed=seed), process_index, num_processes))
            for d in loaded
        ]
        seed += process_index  # or all processes would draw from the same source at the same time
    if not given and not streaming:
        return datasets.concatenate_datasets(list(loaded))
    probabilities = [weight / sum(given) for weight in given] or None
    return datasets.interleave_datasets(
        list(loaded), probabilities=probabilities, seed=seed, stopping_strategy="all_exhausted"
    )


# Enough for the workers of a data loader, which share out a stream by its shards.
_SHARDS_PER_PROCESS = 16


def _to_stream(rows: datasets.Dataset, num_processes: int = 1) -> datasets.IterableDataset:
    shards = _SHARDS_PER_PROCESS * num_processes
    return rows.to_iterable_dataset(num_shards=shards if len(rows) >= shards else 1)


def _own_rows(rows: datasets.Dataset, process_index: int, num_processes: int) -> datasets.Dataset:
    if num_processes == 1 or len(rows) < num_processes:
        return rows
    return rows.shard(num_processes, process_index)


def load_source(
    source: SourceRecipe,
    seed: int = 42,
    bad_rows: BadRows | None = None,
    tag_rows: TagRows | None = None,
    training: bool = True,
    process_index: int = 0,
    num_processes: int = 1,
) -> AnyDataset:
    """Load and check one source (arguments as for [`build_dataset`])."""
    bad_rows = bad_rows or BadRows()
    if source.format == "auto":
        read = read_rows(
            str(source.path),
            image_folder=source.image_folder,
            box_format=source.box_format,
            annotations=source.annotations,
            level=source.level if source.level in LEVELS else "auto",
            split=source.split,
        )
        logger.info("%s: %s.", source.name, read.summary())
        bad_rows.check_share(source.name, sum(read.left_out.values()), len(read.rows), read.summary())
        raw = read.to_dataset()
        torn: Mapping[int, str] = {}
        if source.max_samples is not None:
            raw = _first_rows(raw, source.max_samples)
        source = dataclasses.replace(
            source, format="columns", box_format=None, annotations=None, image_folder=None, level="column"
        )
    else:
        raw, torn = _open(source, num_processes)
        raw = _expand_conversations(raw, source)
    reader = _RowReader(source, raw.column_names)
    if isinstance(raw, datasets.IterableDataset):
        if source.tags == "tagger":
            raise ValueError(
                f"Source {source.name!r} streams, so the tagger cannot go first: write its tags beforehand."
            )
        return _stream(raw, source, reader, seed if training else None, bad_rows, process_index, num_processes)
    return _prepare(raw, source, reader, bad_rows, tag_rows, torn)


def _expand_conversations(raw: AnyDataset, source: SourceRecipe) -> AnyDataset:
    column = source.columns.get("messages", "messages")
    if column not in (raw.column_names or ()) or "prompt" in source.columns or "prompt" in raw.column_names:
        return raw
    return expand_conversations(raw, column)


def expand_conversations(rows: AnyDataset, column: str = "messages") -> AnyDataset:
    """
    One row for each exchange of a conversation, since LION has no memory of turns: each row is repeated with the number
    of the exchange in the new column `turn`. Images are neither copied nor decoded.
    """
    if isinstance(rows, datasets.IterableDataset):

        def expand(batch: Mapping[str, list]) -> dict[str, list]:
            counts = [_count_exchanges(messages) for messages in batch[column]]
            repeated = {name: [v for v, n in zip(values, counts) for _ in range(n)] for name, values in batch.items()}
            return {**repeated, "turn": [turn for n in counts for turn in range(n)]}

        features = None if rows.features is None else {**rows.features, "turn": datasets.Value("int64")}
        return rows.map(expand, batched=True, features=None if features is None else datasets.Features(features))
    counts = [_count_exchanges(messages) for messages in rows.select_columns(column)[column]]
    if max(counts, default=1) > 1:
        rows = rows.select([index for index, n in enumerate(counts) for _ in range(n)])
    return rows.add_column("turn", pa.array([turn for n in counts for turn in range(n)], pa.int64()))


def _count_exchanges(messages: Any) -> int:
    """At least one, so that a conversation without any is seen to be unusable."""
    try:
        return max(1, len(split_exchanges(messages)))
    except ValueError:
        return 1


def _first_rows(rows: AnyDataset, count: int) -> AnyDataset:
    # Older versions of `datasets` refuse to take more rows than there are.
    return rows.take(min(count, len(rows)) if isinstance(rows, datasets.Dataset) else count)


def _open(source: SourceRecipe, num_processes: int) -> tuple[AnyDataset, dict[int, str]]:
    """The rows, and what is wrong with those that no dataset can hold."""
    torn: dict[int, str] = {}
    try:
        if source.builder is not None:
            raw = load_function(source.builder)(**source.builder_kwargs)
        else:
            try:
                raw = _load(source, str(source.path), num_processes)
            except DatasetGenerationError:
                path = Path(str(source.path)).expanduser()
                if source.streaming or path.suffix != ".jsonl" or not path.is_file():
                    raise
                raw, torn = _read_lines(path)
    except Exception as error:
        raise ValueError(
            f"Source {source.name!r} cannot be loaded from {source.path or source.builder!r}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if isinstance(raw, (datasets.DatasetDict, datasets.IterableDatasetDict)):
        if source.split not in raw:
            raise ValueError(f"Source {source.name!r} has no split {source.split!r}; it has {list(raw)}.")
        raw = raw[source.split]
    if not isinstance(raw, (datasets.Dataset, datasets.IterableDataset)):
        raise ValueError(f"Source {source.name!r} gave a {type(raw).__name__} instead of a dataset.")
    if source.max_samples is not None:
        raw = _first_rows(raw, source.max_samples)
    if raw.column_names is None:  # a stream that does not know before it is read
        raw = raw._resolve_features()
    return raw, torn


def _read_lines(path: Path) -> tuple[datasets.Dataset, dict[int, str]]:
    """JSON Lines of which some cannot be read: these become empty rows, with what is wrong with them."""
    records: list[dict[str, Any]] = []
    problems: dict[int, str] = {}
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
            if not isinstance(record, dict):
                raise ValueError(f"expected an object, got {type(record).__name__}")
            problem = find_encoding_problem("texts", json.dumps(record, ensure_ascii=False))
        except ValueError as error:
            record, problem = {}, f"is no JSON record: {error}"
        if problem is not None:
            problems[len(records)] = problem
            record = {}
        records.append(record)
    names = dict.fromkeys(name for record in records for name in record)
    return datasets.Dataset.from_dict({name: [record.get(name) for record in records] for name in names}), problems


def _load(source: SourceRecipe, name: str, num_processes: int) -> AnyDataset:
    opened = open_dataset(
        name,
        source.config,
        source.split,
        revision=source.revision,
        data_files=source.data_files,
        streaming=source.streaming,
    )
    return _to_stream(opened, num_processes) if source.streaming and isinstance(opened, datasets.Dataset) else opened


def load_function(name: str) -> Callable:
    """
    The function that `"module:function"` names, of an installed module or of one in the current directory.

    Raises:
        ValueError: there is no such module or function.
        ImportError: the module needs another one, which is not installed.
    """
    module, _, attribute = name.partition(":")
    directory = os.getcwd()
    # A command, unlike `python -m`, does not look there. Behind all else: no folder of one's own replaces a package.
    if directory not in sys.path and "" not in sys.path:
        sys.path.append(directory)
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{name!r} names a function of {module!r}: no such module is installed, or in the current directory "
                f"({directory})."
            ) from error
        raise ImportError(f"{module!r}, of which {name!r} is a function, needs {error.name!r}: {error}") from error
    if not callable(function):
        raise ValueError(f"{module!r} has no function {attribute!r}.")
    return function


class _RowReader:
    """Makes a uniform row of one row of a source, and says what is wrong with it."""

    def __init__(self, source: SourceRecipe, column_names: Sequence[str]):
        self.source = source
        self.columns = {
            name: source.columns.get(name, name)
            for name in ("image", "prompt", "completion", "messages", "tags", "level")
            if name in source.columns or name in column_names
        }
        if "image" not in source.columns and "image" not in column_names and "images" in column_names:
            self.columns["image"] = "images"
        self.reads_messages = "messages" in self.columns and "prompt" not in self.columns
        needed = ["image", "completion"]
        if self.reads_messages:
            needed = ["image"]
            self.columns["turn"] = "turn"
            if source.template is not None:
                raise ValueError(f"Source {source.name!r}: `template` makes a prompt, but its rows are `messages`.")
        elif source.template is None:
            needed.append("prompt")
        else:
            if source.template not in PROMPT_TEMPLATES:
                raise ValueError(
                    f"Source {source.name!r}: `template` must be one of {list(PROMPT_TEMPLATES)}, "
                    f"got {source.template!r:.100}."
                )
            needed += PROMPT_TEMPLATES[source.template].fields
            for name in PROMPT_TEMPLATES[source.template].fields:
                self.columns[name] = source.columns.get(name, name)
        if source.tags == "column":
            needed.append("tags")
        if source.level == "column":
            needed.append("level")
        for name in needed:
            column = self.columns.get(name, name)
            if column not in column_names:
                raise ValueError(
                    f"Source {source.name!r} has no column {column!r} for `{name}`; its columns are "
                    f"{list(column_names)}. Expected is {EXPECTED_COLUMNS}; `columns` in the recipe maps other names."
                )

    @property
    def text_columns(self) -> list[str]:
        return list(dict.fromkeys(column for name, column in self.columns.items() if name != "image"))

    def read_texts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """All but image and index; `problem` says what is wrong with it, or is None."""
        source = self.source
        problem = None
        completions: list[str] = []
        if self.reads_messages:
            prompt = ""
            try:
                prompt, completions = read_exchange({"messages": row[self.columns["messages"]], "turn": row["turn"]})
            except ValueError as error:
                problem = str(error)
        elif source.template is None:
            prompt = read_prompt(row[self.columns["prompt"]])
        else:
            try:
                fields = {f: row[self.columns[f]] for f in PROMPT_TEMPLATES[source.template].fields}
                prompt = format_prompt(source.template, **{f: _as_box_text(v) for f, v in fields.items()})
            except (TypeError, ValueError) as error:
                prompt, problem = "", f"does not fill the prompt {source.template!r}: {error}"
        if not self.reads_messages:
            try:
                completions = read_completions(_as_box_text(row[self.columns["completion"]]))
            except ValueError as error:
                problem = problem or f"has an unusable answer: {error}"
        level: str = source.level
        if level == "column":
            level = row[self.columns["level"]] or "auto"
        elif level == "auto" and source.template is not None:
            level = PROMPT_TEMPLATES[source.template].level
        return {
            "prompt": prompt,
            "completion": completions,
            "tags": read_tags(row[self.columns["tags"]]) or "" if source.tags == "column" else None,
            "level": level,
            "augment": source.augment,
            "source": source.name,
            "problem": problem or find_text_problem(prompt, completions, level),
        }

    def read_image(self, value: Any) -> dict[str, Any]:
        """The undecoded form of an image, relative paths resolved."""
        if isinstance(value, str):
            value = {"bytes": None, "path": value}
        if isinstance(value, Mapping) and not value.get("bytes") and value.get("path") and self.source.image_folder:
            path = value["path"]
            if "://" not in path:
                value = {"bytes": None, "path": str(Path(self.source.image_folder).expanduser() / path)}
        return value


def _as_box_text(value: Any) -> Any:
    """A box given as four fractions, in LION's notation."""
    if isinstance(value, Sequence) and len(value) == 4 and all(isinstance(v, (int, float)) for v in value):
        return format_box(value)
    return value


def _prepare(
    raw: datasets.Dataset,
    source: SourceRecipe,
    reader: _RowReader,
    bad_rows: BadRows,
    tag_rows: TagRows | None,
    torn: Mapping[int, str],
) -> datasets.Dataset:
    """Map-style: texts are rewritten, images are neither copied nor decoded."""
    images = _image_column(raw, reader)
    text_features = {name: f for name, f in ROW_FEATURES.items() if name not in ("image", "index")}
    text_features["problem"] = datasets.Value("string")
    texts = raw.select_columns(reader.text_columns or raw.column_names[:1])
    with PartialState().local_main_process_first():  # the others find it in the cache
        texts = texts.map(
            reader.read_texts,
            remove_columns=texts.column_names,
            features=datasets.Features(text_features),
            desc=f"Reading {source.name}",
        )
    if source.tags == "tagger":
        if tag_rows is None:
            raise ValueError(f"Source {source.name!r} asks for the tagger, but the recipe names no `tagger`.")
        tags = pa.array([read_tags(tag) or "" for tag in tag_rows(source, images)], pa.string())
        texts = texts.remove_columns("tags").add_column("tags", tags)

    missing = _find_missing_images(images)
    good, bad = [], {}
    for index, problem in enumerate(texts["problem"]):
        problem = torn.get(index) or missing.get(index) or problem
        if problem is None:
            good.append(index)
        else:
            bad[index] = problem
    for index, problem in bad.items():
        bad_rows.record(source.name, index, problem)
    if not good:
        raise ValueError(f"Source {source.name!r} has no usable row: {bad_rows.reasons(source.name)}.")
    bad_rows.check_share(source.name, len(bad), len(good))
    texts = texts.remove_columns("problem").add_column("index", pa.array(range(len(texts)), pa.int64()))
    rows = datasets.concatenate_datasets([images, texts], axis=1).select_columns(list(ROW_FEATURES))
    if len(good) < len(rows):
        logger.warning("%d of %d rows of %r are unusable.", len(rows) - len(good), len(rows), source.name)
        rows = rows.select(good)
    return rows


def _image_column(raw: datasets.Dataset, reader: _RowReader) -> datasets.Dataset:
    """The images alone, undecoded, in a column `image`."""
    column = reader.columns["image"]
    images = raw.select_columns(column)
    feature = images.features[column]
    if reader.source.image_folder is None and _is_image(feature):
        images = images.cast_column(column, datasets.Image(decode=False))
        return images if column == "image" else images.rename_column(column, "image")

    if isinstance(feature, datasets.Image):
        images = images.cast_column(column, datasets.Image(decode=False))
    elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
        images = images.cast_column(column, datasets.List(datasets.Image(decode=False)))

    def read(row):
        value = row[column]
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = value[0] if len(value) == 1 else None
        return {"image": reader.read_image(value)}

    with PartialState().local_main_process_first():
        return images.map(
            read,
            remove_columns=[name for name in images.column_names if name != "image"],
            features=datasets.Features({"image": datasets.Image(decode=False)}),
        )


def _is_image(feature: Any) -> bool:
    """Whether a column's values are images or become images by a change of type alone."""
    if isinstance(feature, datasets.Image):
        return True
    if isinstance(feature, datasets.Value):
        return feature.dtype in ("string", "large_string", "binary", "large_binary")
    return isinstance(feature, dict) and set(feature) == {"bytes", "path"}


def image_files(images: datasets.Dataset) -> list[str] | None:
    """The files of the column `image`, row by row, or None where an image is embedded or there is none."""
    if images._indices is not None:
        images = images.flatten_indices()
    column = images.data.column("image")
    embedded = pc.is_valid(pc.struct_field(column, "bytes"))
    files = pc.struct_field(column, "path")
    if pc.any(embedded).as_py() or files.null_count:
        return None
    return files.to_pylist()


def _find_missing_images(images: datasets.Dataset) -> dict[int, str]:
    """Problems by row. Reads paths and what is null, no image."""
    if images._indices is not None:
        images = images.flatten_indices()
    column = images.data.column("image")
    embedded = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
    paths = pc.struct_field(column, "path").to_pylist()
    return {
        index: problem
        for index, (has_bytes, path) in enumerate(zip(embedded, paths))
        if not has_bytes and (problem := find_missing_image({"bytes": None, "path": path})) is not None
    }


def _stream(
    raw: datasets.IterableDataset,
    source: SourceRecipe,
    reader: _RowReader,
    seed: int | None,
    bad_rows: BadRows,
    process_index: int,
    num_processes: int,
) -> datasets.IterableDataset:
    column = reader.columns["image"]
    if raw.features is not None:
        feature = raw.features[column]
        if isinstance(feature, datasets.Image):
            raw = raw.cast_column(column, datasets.Image(decode=False))
        elif isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
            raw = raw.cast_column(column, datasets.List(datasets.Image(decode=False)))
    # Rows of several shards are counted by several readers: what they hold tells them apart.
    in_order = raw.num_shards == 1
    raw = _own_stream(raw, source.name, process_index, num_processes)

    def read(row, index):
        output = reader.read_texts(row)
        try:
            image = reader.read_image(read_image_source({"image" if column != "images" else "images": row[column]}))
            problem = find_missing_image(image)
        except ValueError as error:
            image, problem = None, str(error)
        index = index * num_processes + process_index if in_order else _fingerprint(image, output)
        return {**output, "image": image, "index": index, "problem": problem or output["problem"]}

    def is_good(row):
        if row["problem"] is None:
            bad_rows.accept(row["source"], "stream")
            return True
        bad_rows.report(row["source"], row["index"], row["problem"], "stream")
        return False

    features = datasets.Features({**ROW_FEATURES, "problem": datasets.Value("string")})
    rows = raw.map(read, with_indices=True, remove_columns=raw.column_names, features=features)
    rows = rows.filter(is_good).remove_columns("problem").select_columns(list(ROW_FEATURES))
    return rows if seed is None else rows.shuffle(seed=seed + process_index, buffer_size=source.shuffle_buffer)


def _fingerprint(image: Mapping[str, Any] | None, texts: Mapping[str, Any]) -> int:
    """A number of a row, the same wherever the row is read."""
    content = (image or {}).get("bytes") or str((image or {}).get("path")).encode()
    words = "\0".join([texts["prompt"], *texts["completion"]])
    return zlib.crc32(words.encode("utf-8", "surrogatepass"), zlib.crc32(content))


def _own_stream(
    raw: datasets.IterableDataset, name: str, process_index: int, num_processes: int
) -> datasets.IterableDataset:
    """The rows of one process: whole shards, or every so many-th row where these cannot be dealt out evenly."""
    if num_processes == 1:
        return raw
    if raw.num_shards % num_processes == 0:
        return raw.shard(num_processes, process_index)
    logger.warning(
        "Every process reads all of source %r: its %d shards cannot be dealt out evenly to %d processes.",
        name,
        raw.num_shards,
        num_processes,
    )
    return raw.filter(lambda _, index: index % num_processes == process_index, with_indices=True)
