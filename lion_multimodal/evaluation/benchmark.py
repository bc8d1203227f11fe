"""What a benchmark is: where its rows are, how a row becomes questions about an image, how answers are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from processing_lion.prompts_lion import PROMPT_TEMPLATES


LEVELS = ("image_level", "region_level")


@dataclass
class Example:
    """
    One question about one image.

    Attributes:
        id: names the example within its benchmark; the same in every run, whatever the batch size or process.
        image: the image as `datasets` gives it undecoded (`{"bytes": ..., "path": ...}`), or a path, an address on
            the web or a PIL image; or a function without arguments that returns one of these, so that thousands of
            examples hold no images. `lion_multimodal.evaluation.rows.load_image` opens all of them.
        image_id: examples that share it show the same image, which is encoded once for all of them.
        instruction: what the model is asked, without the tag sentence.
        metric_inputs: the columns of the benchmark's metric for this example, `predictions` excepted; `references` is
            always there.
        candidates: the answers to choose from. With them the model scores each one and the prediction is the list of
            log-likelihoods; without, it generates and the prediction is the text.
        part: which part of the benchmark it counts for (POPE's `"adversarial"`, say); parts are scored apart.
        tags: tags from the row, if it has any; separated by commas.
        level: how it is routed.
        coco_id: the image's number in COCO, where the row gives it apart from its file's name.
    """

    id: str
    image: Any
    image_id: str
    instruction: str
    metric_inputs: dict[str, Any]
    candidates: tuple[str, ...] | None = None
    part: str = ""
    tags: str | None = None
    level: str = "image_level"
    coco_id: int | None = None


@dataclass(frozen=True)
class ImageTable:
    """
    Images that stand apart from the questions, in a table of their own.

    Attributes:
        name: configuration that holds it on the Hub; in a local folder, the annotation file of that name.
        split: its split.
        key: column that names an image there.
        row_key: column of the questions that names their image.
        column: column of the image; the questions' rows get it under this name.
    """

    name: str
    split: str
    key: str = "id"
    row_key: str = "imageId"
    column: str = "image"


@dataclass(frozen=True)
class HubDataset:
    """
    Rows on the Hub, or in the schema of a dataset there.

    Attributes:
        path: name of the dataset's repo, or where files in this schema come from if `local_only`.
        split: split to read.
        name: configuration, where there are several.
        columns: those that the reader cannot do without.
        read_row: a row (a `benchmarks.row.Row`, its images undecoded) to its examples: several where a row holds
            several questions, none where it does not belong to the benchmark. Raises `ValueError` for a row that cannot
            be used.
        revision: branch, tag or commit, where the main one does not serve.
        folder: folder of the repo that holds the files, where the repo does not say which they are.
        image_table: where the images are, if not in the rows.
        unpack: the parsed JSON files of a local folder, by file name, to rows; `None` where they are not of this kind.
            For distributions whose annotation files are no plain lists of rows.
        local_only: never read from the Hub: only files in this schema are.
        note: what is special about it (an answer server, a filter, a licence to accept).
    """

    path: str
    split: str
    columns: tuple[str, ...]
    read_row: Callable[[Any], Iterable[Example]]
    name: str | None = None
    revision: str | None = None
    folder: str | None = None
    image_table: ImageTable | None = None
    unpack: Callable[[Mapping[str, Any]], list[dict[str, Any]] | None] | None = None
    local_only: bool = False
    note: str = ""


@dataclass(frozen=True)
class Decoding:
    """How answers are generated; fields as in `GenerationConfig`. A benchmark's, not the checkpoint's."""

    num_beams: int = 5
    max_new_tokens: int = 10
    min_new_tokens: int | None = None
    length_penalty: float = 1.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Metric:
    """
    A metric and its headline.

    Attributes:
        name: folder below `lion_multimodal/evaluation/metrics`, an `evaluate` module.
        headline: the key of its result that is compared with published figures.
        scale: factor from the headline to the published unit: 100 where a fraction is published in per cent.
        options: further arguments of `compute`.
    """

    name: str
    headline: str
    scale: float = 100.0
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """
    A benchmark, as data.

    Attributes:
        name: as on the command line.
        title: as in the paper.
        task: kind of task, such as `"captioning"`.
        prompts: the keys of `PROMPT_TEMPLATES` that its instructions are made of.
        sources: datasets on the Hub that hold it, the preferred one first. Rows of a local folder (`--data-dir`) may
            have the schema of any of them.
        metrics: by part of the benchmark; the key `""` holds for parts that are not named.
        further_metrics: computed on the same inputs and reported beside the headline.
        decoding: how answers are generated.
        level: how its examples are routed.
        published: figures in the unit of the headline, by part and model: `{"": {"LION-4B": 138.20}}`.
        normalize_candidates: whether log-likelihoods of candidates are divided by their lengths.
        why: why this dataset, split and prompt; for the report.
    """

    name: str
    title: str
    task: str
    prompts: tuple[str, ...]
    sources: tuple[HubDataset, ...]
    metrics: Mapping[str, Metric]
    decoding: Decoding
    level: str = "image_level"
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    further_metrics: tuple[Metric, ...] = ()
    normalize_candidates: bool = False
    why: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"{self.name}: level must be one of {', '.join(LEVELS)}, got {self.level!r:.100}")
        if unknown := [prompt for prompt in self.prompts if prompt not in PROMPT_TEMPLATES]:
            raise ValueError(f"{self.name}: prompts must be keys of PROMPT_TEMPLATES, got {', '.join(unknown)}")
        if not self.sources:
            raise ValueError(f"{self.name}: sources must name at least one dataset")
        if not self.metrics:
            raise ValueError(f"{self.name}: metrics must name at least one metric")

    def metric_of(self, part: str) -> Metric:
        """
        The metric of a part.

        Raises:
            ValueError: the benchmark has no such part.
        """
        metric = self.metrics.get(part, self.metrics.get(""))
        if metric is None:
            raise ValueError(f"{self.name} has the parts {', '.join(self.metrics)}, not {part!r}")
        return metric
