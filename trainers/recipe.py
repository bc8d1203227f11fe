"""
Recipes: YAML files that say which model is trained on which data with which settings, stage by stage.

A recipe can name any function (`builder`, `stage0.function`), which is imported and called: run only recipes that you
trust, as you would a script.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from processing_lion import PROMPT_TEMPLATES
from trainers.stages import STAGES, Stage


DATA_DIR = "{data_dir}"
ROW_COLUMNS = ("image", "prompt", "completion", "messages", "tags", "level")
_TEMPLATE_COLUMNS = tuple(sorted({f for template in PROMPT_TEMPLATES.values() for f in template.fields}))


_NO_OTHER_FIELDS = ConfigDict(extra="forbid")


class _Loader(yaml.SafeLoader):
    """YAML with the numbers that people write: PyYAML takes `1e-4` for a text, since YAML 1.1 wants `1.0e-4`."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _load_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader)


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file and the field."""


def _read_no(training: dict[str, Any]) -> dict[str, Any]:
    """`save_strategy: no`, which YAML reads as False."""
    return {name: "no" if name.endswith("_strategy") and value is False else value for name, value in training.items()}


@dataclass
class SourceRecipe:
    """
    One dataset of a stage.

    Args:
        name (`str`, *optional*): How reports call it. Defaults to the last part of `path` or `builder`.
        path (`str`, *optional*):
            A `.parquet`, `.json`, `.jsonl`, `.csv` or `.tar` (WebDataset) file, a pattern for many of them
            (`"rows-*.parquet"`), a directory written by `Dataset.save_to_disk`, any other directory that
            `datasets.load_dataset` understands (an imagefolder, Parquet files), or a Hub name.
        builder (`str`, *optional*):
            Instead of `path`: `"module:function"`, of an installed module or of one in the current directory. Returns a
            `datasets.Dataset` or `IterableDataset`.
        builder_kwargs (`dict`, *optional*): Arguments of `builder`.
        config (`str`, *optional*): Configuration name of a dataset that has several.
        split (`str`, *optional*, defaults to `"train"`): Split, slices such as `"train[:1000]"` included.
        revision (`str`, *optional*): Revision on the Hub.
        data_files (`str`, `list` or `dict`, *optional*): Passed to `load_dataset`.
        streaming (`bool`, *optional*, defaults to `False`): Read while training instead of preparing first.
        shuffle_buffer (`int`, *optional*, defaults to 1000): Rows among which a stream is shuffled.
        columns (`dict[str, str]`, *optional*):
            Our column names (`image`, `prompt`, `completion` or TRL's `messages`, `tags`, `level`, and the fields of
            `template`) to those of the dataset. A completion may be a list of strings, of which each epoch picks one;
            a box may be a list of four fractions.
        template (`str`, *optional*):
            Name of a prompt template of the processor, filled from the row's columns, instead of a prompt column.
        level (`str`, *optional*, defaults to `"auto"`):
            `"image_level"`, `"region_level"`, `"auto"` (the processor decides by the prompt) or `"column"`.
        tags (`str`, *optional*):
            `"none"` (no tag sentence), `"column"` or `"tagger"`. Defaults to `"column"` if `columns` names one.
        image_folder (`str`, *optional*): What relative image paths are relative to.
        weight (`float`, *optional*): Share of this source in the mixture; for all sources of a stage or for none.
        max_samples (`int`, *optional*): Use only the first so many rows.
        augment (`bool`, *optional*): Whether to augment its images, whatever the training settings say.
        format (`str`, *optional*, defaults to `"columns"`):
            `"columns"` reads `columns` as above; `"auto"` recognises any format of `trainers.row_formats`.
        box_format (`str`, *optional*): With `"auto"`: how boxes are written, where the data do not say it.
        annotations (`str`, *optional*): With `"auto"`: the file of answers to VQAv2's questions.
    """

    __pydantic_config__ = _NO_OTHER_FIELDS

    name: str = ""
    path: str | None = None
    builder: str | None = None
    builder_kwargs: dict[str, Any] = field(default_factory=dict)
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    data_files: str | list | dict | None = None
    streaming: bool = False
    shuffle_buffer: int = 1000
    columns: dict[str, str] = field(default_factory=dict)
    template: str | None = None
    level: Literal["auto", "image_level", "region_level", "column"] = "auto"
    tags: Literal["none", "column", "tagger"] | None = None
    image_folder: str | None = None
    weight: float | None = None
    max_samples: int | None = None
    augment: bool | None = None
    format: Literal["columns", "auto"] = "columns"
    box_format: str | None = None
    annotations: str | None = None

    def __post_init__(self):
        if (self.path is None) == (self.builder is None):
            raise ValueError("needs either `path` or `builder`")
        if self.builder is not None and ":" not in self.builder:
            raise ValueError(f"`builder` must read 'module:function', got {self.builder!r:.100}")
        possible = ROW_COLUMNS if self.template is None else ROW_COLUMNS + _TEMPLATE_COLUMNS
        unknown = set(self.columns) - set(possible)
        if unknown:
            raise ValueError(f"`columns` maps {sorted(unknown)}, but the columns are {list(possible)}")
        if self.weight is not None and self.weight <= 0:
            raise ValueError(f"`weight` must be positive, got {self.weight}")
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"`max_samples` must be at least 1, got {self.max_samples}")
        if self.shuffle_buffer < 1:
            raise ValueError(f"`shuffle_buffer` must be at least 1, got {self.shuffle_buffer}")
        if self.format == "auto":
            given = [name for name in ("builder", "columns", "template", "data_files") if getattr(self, name)]
            if given or self.streaming:
                raise ValueError(f"`format: auto` recognises rows by itself and reads them first: leave out {given}")
        elif self.box_format is not None or self.annotations is not None:
            raise ValueError("`box_format` and `annotations` need `format: auto`")
        if not self.name:
            self.name = Path(self.path).stem if self.path is not None else str(self.builder).rpartition(":")[2]
        if self.tags is None:
            self.tags = "column" if "tags" in self.columns else "none"


@dataclass
class StageRecipe:
    """
    What one stage is trained and evaluated on.

    Args:
        data (`list[SourceRecipe]`): Training data. Stage 3 without any uses the union of stages 1 and 2.
        evaluation (`list[SourceRecipe]`): Evaluated each under its own name. Stage 3 likewise.
        training (`dict`): Fields of `LionSFTConfig`, over those of the recipe and the stage.
        start_from (`list[str]`, *optional*): Adapter directories, instead of the outputs of the stages before.
    """

    __pydantic_config__ = _NO_OTHER_FIELDS

    data: list[SourceRecipe] = field(default_factory=list)
    evaluation: list[SourceRecipe] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    start_from: list[str] | None = None

    def __post_init__(self):
        self.training = _read_no(self.training)
        for label, sources in (("data", self.data), ("evaluation", self.evaluation)):
            names = [source.name for source in sources]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"`{label}` names {twice} twice: give those sources a `name` each")
        if len({source.weight is None for source in self.data}) > 1:
            raise ValueError("`data` gives some sources a `weight` and others none")


FINETUNE_PARTS = ("adapters", "routers", "connectors", "soft_prompt")


@dataclass
class FinetuneRecipe:
    """
    How a finished LION is fine-tuned.

    Args:
        data (`list[SourceRecipe]`): Training data.
        evaluation (`list[SourceRecipe]`):
            Evaluated before and after, each under its own name: what was learnt, and what was forgotten. Without any, a
            tenth of the training data is set aside.
        method (`str`, *optional*, defaults to `"adapters"`):
            `"adapters"` (as stage 3 continued), `"lora"` (LoRA on the LLM), or `"full"` (all but the vision tower).
        train (`list[str]`, *optional*):
            Which of LION's parts are trained: `"adapters"`, `"routers"`, `"connectors"` (Q-Former, aggregator and their
            projections), `"soft_prompt"`. Defaults to adapters and routers with `"adapters"`, to none with `"lora"`.
        precision (`str`, *optional*, defaults to `"auto"`):
            Of the base: `"float32"`, `"bfloat16"` or `"4bit"` (bitsandbytes); what is trained beside it stays in
            float32. `"auto"` is bfloat16 on a GPU that has it, else float32, and always float32 with `"full"`.
        lora (`dict`): Fields of `peft.LoraConfig`.
        rehearsal (`float`, *optional*, defaults to 6.0):
            Against forgetting: rows beside each row of the data that hold what the base answers to other questions
            about the same images; at most 20,000 in all. 0 for none, as with data that are streamed.
        hold_out (`bool`, *optional*, defaults to `True`): Whether rows are set aside where `evaluation` is empty.
        training (`dict`): Fields of `LionSFTConfig`, over those of the recipe.
    """

    __pydantic_config__ = _NO_OTHER_FIELDS

    data: list[SourceRecipe] = field(default_factory=list)
    evaluation: list[SourceRecipe] = field(default_factory=list)
    method: Literal["adapters", "lora", "full"] = "adapters"
    train: list[str] | None = None
    precision: Literal["auto", "float32", "bfloat16", "4bit"] = "auto"
    lora: dict[str, Any] = field(default_factory=dict)
    rehearsal: float = 6.0
    hold_out: bool = True
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.training = _read_no(self.training)
        if not (isinstance(self.rehearsal, (int, float)) and 0 <= self.rehearsal <= 100):
            raise ValueError(f"`rehearsal` must be a number from 0 to 100, got {self.rehearsal!r:.100}")
        if not self.data:
            raise ValueError("`data` is empty: there is nothing to train on")
        for label, sources in (("data", self.data), ("evaluation", self.evaluation)):
            names = [source.name for source in sources]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(f"`{label}` names {twice} twice: give those sources a `name` each")
        unknown = sorted(set(self.train or ()) - set(FINETUNE_PARTS))
        if unknown:
            raise ValueError(f"`train` holds {unknown}, but the parts are {list(FINETUNE_PARTS)}")
        if self.method == "full" and self.train is not None:
            raise ValueError("`train` is for the methods adapters and lora: full trains all but the vision tower")
        if self.method != "lora" and self.lora:
            raise ValueError(f"`lora` is for the method lora, not {self.method}")

    @property
    def trained_parts(self) -> list[str]:
        """LION's parts that are trained."""
        if self.train is not None:
            return list(self.train)
        return [] if self.method == "lora" else list(FINETUNE_PARTS[:2])


@dataclass
class StageZeroRecipe:
    """
    A function that makes the base model, for recipes that start from scratch.

    Args:
        function (`str`):
            `"module:function"`, found as `builder` is and called as `function(output_dir=Path, resume=bool, **kwargs)`.
            Returns the directory of a `LionForConditionalGeneration` and its processor, at once when an earlier call
            finished it.
        kwargs (`dict`): Its further arguments.
    """

    __pydantic_config__ = _NO_OTHER_FIELDS

    function: str
    kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        if ":" not in self.function:
            raise ValueError(f"`function` must read 'module:function', got {self.function!r:.100}")


@dataclass
class Recipe:
    """
    A whole training, from a base model to a checkpoint.

    Args:
        output_dir (`str`): Holds `stage1/`, `stage2/`, `stage3/` and the final checkpoint `final/`.
        model (`str`, *optional*): Base LION without adapters: directory or Hub name. Or give `stage0`.
        stage0 ([`StageZeroRecipe`], *optional*): What makes the base model.
        model_kwargs (`dict`): Passed to `LionForConditionalGeneration.from_pretrained`.
        processor (`str`, *optional*): Defaults to the model's.
        tagger (`str`, *optional*):
            A `RamForImageTagging` for sources with `tags: tagger`; ships with the final checkpoint. Defaults to the
            base model's subfolder `tagger` where there is one.
        adapters (`dict`): Fields of `LionAdapterConfig` that the stages leave open (`bottleneck_size`).
        data_dir (`str`, *optional*): What `{data_dir}` stands for in the paths and image folders of sources.
        max_samples (`int`, *optional*): Use only the first so many rows of sources that don't say so themselves.
        bad_rows (`str`, *optional*, defaults to `"skip"`): `"skip"` reports a bad row and goes on, `"fail"` stops.
        seed (`int`, *optional*, defaults to 42): Of everything random.
        training (`dict`): Fields of `LionSFTConfig` for all stages.
        stages (`dict[str, StageRecipe]`): By stage name.
        finetune ([`FinetuneRecipe`], *optional*): Instead of stages: fine-tune the finished `model`.
    """

    __pydantic_config__ = _NO_OTHER_FIELDS

    output_dir: str
    model: str | None = None
    stage0: StageZeroRecipe | None = None
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    processor: str | None = None
    tagger: str | None = None
    adapters: dict[str, Any] = field(default_factory=dict)
    data_dir: str | None = None
    max_samples: int | None = None
    bad_rows: Literal["skip", "fail"] = "skip"
    seed: int = 42
    training: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, StageRecipe] = field(default_factory=dict)
    finetune: FinetuneRecipe | None = None

    def __post_init__(self):
        self.training = _read_no(self.training)
        if self.model is None and self.stage0 is None:
            raise ValueError("needs `model` or `stage0`")
        if self.finetune is not None and (self.stages or self.stage0 is not None or self.adapters):
            raise ValueError("`finetune` takes a finished `model`: leave `stages`, `stage0` and `adapters` out")
        unknown = set(self.stages) - set(STAGES)
        if unknown:
            raise ValueError(f"`stages` has {sorted(unknown)}, but the stages are {list(STAGES)}")
        if self.max_samples is not None and self.max_samples < 1:
            raise ValueError(f"`max_samples` must be at least 1, got {self.max_samples}")
        for stage in self.stages.values():
            stage.data = [self._complete(source) for source in stage.data]
            stage.evaluation = [self._complete(source) for source in stage.evaluation]

    def _complete(self, source: SourceRecipe) -> SourceRecipe:
        """A source with what the recipe says for all of them."""
        places = {name: getattr(source, name) for name in ("path", "image_folder")}
        for name, place in places.items():
            if place is not None and DATA_DIR in place:
                if self.data_dir is None:
                    raise ValueError(f"needs `data_dir`: `{name}` of {source.name!r} is {place!r}")
                places[name] = place.replace(DATA_DIR, self.data_dir)
        max_samples = self.max_samples if source.max_samples is None else source.max_samples
        return dataclasses.replace(source, max_samples=max_samples, **places)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """
        Read a YAML recipe. With `extends: RECIPE` it has the fields of another one where it doesn't give its own;
        mappings are merged, lists are not.

        Args:
            path (`str` or `Path`): The file, or the name of a recipe that ships with the package (`xl_one_gpu`).
            overrides (`Sequence[str]`):
                `"key=value"` with a dotted key and a YAML value, for example `"stages.stage1.data.0.max_samples=64"`.

        Raises:
            RecipeError: the file, a field or an override is not right.
        """
        path = find_recipe(path)
        return cls.from_content(cls.read_file(path), overrides, where=str(path))

    @staticmethod
    def read_file(path: str | Path) -> dict[str, Any]:
        """What a YAML recipe holds; `RecipeError` names the file where that is no mapping of fields."""
        return _read(Path(path))

    @classmethod
    def from_content(cls, content: dict[str, Any], overrides: Sequence[str] = (), where: str = "options") -> "Recipe":
        """A recipe from what a YAML file would hold, which is changed; arguments and errors as for [`load`]."""
        for override in overrides:
            _override(content, override)
        return _parse(content, where)

    def training_arguments(self, stage: Stage) -> dict[str, Any]:
        """Fields of `LionSFTConfig`: the stage's own, then the recipe's, then the recipe's for this stage."""
        specific = self.stages[stage.name].training if stage.name in self.stages else {}
        return {**stage.training, **self.training, **specific}

    def sources(self, stage: Stage, evaluation: bool = False) -> list[SourceRecipe]:
        """The stage's sources; those of the stages it starts from where it has none of its own (stage 3's union)."""
        label = "evaluation" if evaluation else "data"
        own = getattr(self.stages.get(stage.name, StageRecipe()), label)
        if own or len(stage.starts_from) < 2:
            return list(own)
        union = [s for name in stage.starts_from for s in getattr(self.stages.get(name, StageRecipe()), label)]
        names = [source.name for source in union]
        return [
            dataclasses.replace(source, name=f"{source.name}_{i}") if source.name in names[:i] else source
            for i, source in enumerate(union)
        ]

    def to_json(self) -> str:
        """The recipe as it was used, overrides included."""
        return json.dumps(dataclasses.asdict(self), indent=2, default=str)


def find_recipe(path: str | Path) -> Path:
    """`path` itself, or the shipped recipe of that name; `RecipeError` says what there is."""
    path = Path(path)
    if path.is_file():
        return path
    shipped = Path(__file__).parent / "recipes"
    if path.parent == Path("."):
        candidate = shipped / f"{path.stem}.yaml"
        if candidate.is_file():
            return candidate
    names = sorted(p.stem for p in shipped.glob("*.yaml"))
    raise RecipeError(f"No recipe {str(path)!r}: neither a file nor one of the shipped recipes {names}.")


def _read(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The content of a recipe, on top of what it extends."""
    try:
        content = _load_yaml(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}).") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path}: expected a mapping of fields, got {type(content).__name__}.")
    if "extends" not in content:
        return content
    extended = content.pop("extends")
    if not isinstance(extended, str):
        raise RecipeError(f"{path}: extends must be str, got {extended!r:.100}.")
    beside = path.parent / extended
    base = (beside if beside.is_file() else find_recipe(extended)).resolve()
    chain = (*extended_by, path.resolve())
    if base in chain:
        raise RecipeError(f"{path}: extends {extended!r}, which extends this recipe.")
    return _merge(_read(base, chain), content)


def _merge(base: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in content.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = _merge(base[name], value) if both else value
    return merged


def _override(content: dict, override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise RecipeError(f"Override {override!r} must read key=value, for example training.max_steps=100.")
    *parents, last = key.split(".")
    node: Any = content
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = node[_list_index(node, part, override)]
        elif isinstance(node, dict):
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        else:
            raise RecipeError(f"Override {override!r}: `{'.'.join(parents[:depth])}` has no fields.")
    try:
        parsed = _load_yaml(value)
    except yaml.YAMLError:
        raise RecipeError(f"Override {override!r}: {value!r} is not a YAML value.") from None
    if isinstance(node, list):
        node[_list_index(node, last, override)] = parsed
    elif isinstance(node, dict):
        node[last] = parsed
    else:
        raise RecipeError(f"Override {override!r}: `{'.'.join(parents)}` has no fields.")


def _list_index(items: list, part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise RecipeError(f"Override {override!r}: {part!r} must be a number from 0 to {len(items) - 1}.")
    return int(part)


_EXPECTED = {
    "bool_type": "bool",
    "dataclass_type": "a mapping of fields",
    "dict_type": "a mapping",
    "float_type": "float",
    "int_from_float": "int",
    "int_type": "int",
    "list_type": "a list",
    "string_type": "str",
}
"""What pydantic's errors of type say was expected, in the words of YAML."""


def _parse(content: Any, where: str) -> Recipe:
    """A recipe from what YAML gave; `RecipeError` names `where` and the first field that is not right."""
    # As JSON, since only there pydantic takes mappings for dataclasses while it converts no types.
    text = json.dumps(content, default=str)
    try:
        return _RECIPE.validate_json(text, strict=True)
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    content = json.loads(text)
    empty = [error["loc"] for error in errors if error["type"] == "dict_type" and error["input"] is None]
    if not empty:
        raise RecipeError(f"{where}: {_problem(content, errors)}.")
    for location in empty:  # a field that is named with nothing behind it
        del _at(content, location[:-1])[location[-1]]
    return _parse(content, where)


def _problem(content: Any, errors: Sequence[Mapping[str, Any]]) -> str:
    """The first of pydantic's errors, in one line."""
    error = errors[0]
    location, kind = error["loc"], error["type"]
    if kind in ("missing", "unexpected_keyword_argument"):
        *parents, name = location
        fields = sorted(item.name for item in dataclasses.fields(_class_at(parents)))
        unknown = f"unknown field {name!r}; the fields are {fields}"
        return f"{_dotted(parents, ': ')}{f'the field {name!r} is missing' if kind == 'missing' else unknown}"
    if kind == "value_error":
        return f"{_dotted(location, ': ')}{error['ctx']['error']}"
    expected = [_EXPECTED.get(kind)]
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        expected = [f"one of {choices}"]
    elif _at(content, location) is _NOTHING:  # one of several types, each of which has an error
        location = location[:-1]
        expected = [_EXPECTED.get(other["type"]) for other in errors if other["loc"][:-1] == location]
    if None in expected:
        return f"{_dotted(location, ': ')}{error['msg']}, got {error['input']!r:.100}"
    return f"{_dotted(location, ' ')}must be {' or '.join(map(str, expected))}, got {error['input']!r:.100}"


def _class_at(location: Sequence[str | int]) -> type:
    """The dataclass of the fields at a place in a recipe."""
    if not location:
        return Recipe
    if isinstance(location[-1], int):
        return SourceRecipe
    return {"stage0": StageZeroRecipe, "finetune": FinetuneRecipe}.get(str(location[0]), StageRecipe)


_NOTHING = object()


def _at(content: Any, location: Sequence[str | int]) -> Any:
    """The value at a place in a recipe, or `_NOTHING`."""
    for part in location:
        try:
            content = content[part]
        except (KeyError, IndexError, TypeError):
            return _NOTHING
    return content


def _dotted(location: Sequence[str | int], end: str) -> str:
    """A place as `stages.stage1.data[0]`, with `end` behind it, or nothing for the whole recipe."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".") + end if text else ""


_RECIPE = TypeAdapter(Recipe)
