"""
The released files made into one self-contained checkpoint, in the memory of a single tensor, and back.

Sources are the learnt parts, the vision tower and the T5; a plan says for every parameter which of them it comes from.
Nothing is written before the plan is complete. The directory has another name until all of it is there.
"""

import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from configuration_lion.configuration_lion import LionConfig
from configuration_lion.configuration_ram import RamConfig
from modeling_lion.card_lion import CARD_FILE, CardFacts, write_card
from modeling_lion.conversion import expected_shapes
from modeling_lion.conversion_files import (
    TensorInfo,
    WeightFile,
    checksum,
    find_weights,
    open_weights,
    release,
    write_safetensors,
    write_shards,
)
from modeling_lion.conversion_layout import infer_lion_config, infer_ram_config, read_json, released_name
from modeling_lion.conversion_names import (
    is_not_needed,
    is_tied_copy,
    join,
    split,
    to_official_names,
    to_our_name,
)
from modeling_lion.conversion_ram import convert_ram_checkpoint, to_official_ram
from modeling_lion.hub_lion import LION_AUTO_MAP, LION_CODE, LION_PIPELINES, TAGGER_SUBFOLDER, write_code
from modeling_lion.modeling_lion import LionForConditionalGeneration
from modeling_lion.modeling_ram import RamForImageTagging
from processing_lion import LionImageProcessor, LionProcessor, add_qformer_bos_token


logger = logging.getLogger(__name__)

VISION_PREFIX = "visual_encoder."
TEXT_PREFIX = "t5_model."
PARTIAL_SUFFIX = ".partial"
_CONFIG = "config.json"
_MIN_FREE = 64 * 2**20

# Bits after the leading one: which of two types keeps more of a number.
_PRECISION = {torch.bfloat16: 8, torch.float16: 11, torch.float32: 24, torch.float64: 53}


class ConversionError(ValueError):
    """Sources that don't make up a model. `problems` lists everything that is wrong."""

    def __init__(self, problems: Sequence[str]):
        self.problems = sorted(problems)
        super().__init__(
            f"the files don't make up a model, in {len(self.problems)} places: " + "; ".join(self.problems)
        )


@dataclass
class Source:
    """
    Official weights from one place.

    Args:
        name (`str`): For messages and the report.
        files (`list[WeightFile]`): What there is to read.
        prefix (`str`): What LION's official names have in front of those in the files.
    """

    name: str
    files: list[WeightFile]
    prefix: str = ""

    def official_name(self, name: str) -> str:
        return name if name.startswith(self.prefix) else self.prefix + name


@dataclass(frozen=True, eq=False)
class _Part:
    """One tensor of one file."""

    file: WeightFile
    name: str

    @property
    def info(self) -> TensorInfo:
        return self.file.tensors[self.name]


@dataclass(eq=False)
class _Candidate:
    """All parts of a parameter in one source."""

    source: Source
    official_name: str
    parts: dict[str, _Part] = field(default_factory=dict)

    def join(self, name: str, on_meta: bool = False) -> torch.Tensor:
        if on_meta:
            infos = {key: part.info for key, part in self.parts.items()}
            return join(name, {k: torch.empty(i.shape, dtype=i.dtype, device="meta") for k, i in infos.items()})
        return join(name, {key: part.file.read(part.name) for key, part in self.parts.items()})

    @property
    def file(self) -> WeightFile:
        return next(iter(self.parts.values())).file


@dataclass
class Plan:
    """
    Where every parameter comes from.

    Args:
        config ([`LionConfig`]): The model.
        sources (`list[Source]`): In the order in which they are read.
        chosen (`dict[str, _Candidate]`): By our name, in the order in which the sources hold them.
        repeated (`dict[str, list[_Candidate]]`): Further candidates, of equal content.
        left_out (`dict[str, list[str]]`): By source, what LION has no use for.
    """

    config: LionConfig
    sources: list[Source]
    chosen: dict[str, _Candidate]
    repeated: dict[str, list[_Candidate]]
    left_out: dict[str, list[str]]

    def counts(self) -> dict[str, dict[str, int]]:
        """By source: parameters and their elements, tensors that repeat another source's, and those left out."""
        taken = Counter(candidate.source.name for candidate in self.chosen.values())
        again = Counter(candidate.source.name for rest in self.repeated.values() for candidate in rest)
        elements: Counter[str] = Counter()
        for name, candidate in self.chosen.items():
            elements[candidate.source.name] += candidate.join(name, on_meta=True).numel()
        return {
            source.name: {
                "taken": taken[source.name],
                "elements": elements[source.name],
                "repeated": again[source.name],
                "left_out": len(self.left_out[source.name]),
            }
            for source in self.sources
        }

    def tensors(self, dtype: torch.dtype) -> dict[str, TensorInfo]:
        """What is written: every parameter in `dtype`, but what float16 can't hold in float32."""
        kept_in_float32 = _kept_in_float32(self.config) if dtype == torch.float16 else None
        infos = {}
        for name, candidate in self.chosen.items():
            shape = candidate.join(name, on_meta=True).shape
            infos[name] = TensorInfo(
                shape, torch.float32 if kept_in_float32 and kept_in_float32.search(name) else dtype
            )
        return infos

    def read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """
        A parameter.

        Raises:
            ValueError: it holds numbers that `dtype` can't.
        """
        tensor = self.chosen[name].join(name)
        cast = tensor.to(dtype)
        if dtype == torch.float16 and cast.isinf().any() and not tensor.isinf().any():
            raise ValueError(f"{name} holds numbers beyond the range of float16: take bfloat16 or float32")
        return cast


def open_source(name: str, path: str | os.PathLike, prefix: str = "") -> Source:
    """A source of one file, or of the files that transformers would load from a directory."""
    path = Path(path)
    files = find_weights(path) if path.is_dir() else [path]
    return Source(name, [open_weights(file) for file in files], prefix)


def official_shapes(sources: Iterable[Source]) -> dict[str, torch.Size]:
    """Shapes of everything in `sources`, by official name."""
    return {
        source.official_name(name): info.shape
        for source in sources
        for file in source.files
        for name, info in file.tensors.items()
    }


def plan_conversion(sources: Sequence[Source], config: LionConfig) -> Plan:
    """
    Find for every parameter of `config` the source that it comes from.

    A parameter that several sources hold is no conflict where they agree to the precision of the coarser one; the finer
    one is taken, of equals the first.

    Raises:
        ConversionError: parameters that are missing, unexpected, of the wrong shape, or that differ between sources.
    """
    candidates: dict[str, list[_Candidate]] = {}
    left_out: dict[str, list[str]] = {}
    problems: list[str] = []
    expected = expected_shapes(config)
    for source in sources:
        left_out[source.name] = []
        found: dict[tuple[str, str], _Candidate] = {}
        for file in source.files:
            for name in file.tensors:
                official_name = source.official_name(name)
                if is_not_needed(official_name, config.vision_config.num_hidden_layers):
                    left_out[source.name].append(official_name)
                    continue
                target, part = to_our_name(official_name)
                if target not in expected:
                    problems.append(f"unexpected: {official_name} ({source.name})")
                    continue
                # Each tied copy counts by itself; parts of one parameter belong together.
                key = (target, official_name if is_tied_copy(official_name) else "")
                if key not in found:
                    found[key] = _Candidate(source, official_name)
                    candidates.setdefault(target, []).append(found[key])
                if part in found[key].parts:
                    problems.append(f"twice: {official_name} ({source.name})")
                found[key].parts[part] = _Part(file, name)

    chosen: dict[str, _Candidate] = {}
    repeated: dict[str, list[_Candidate]] = {}
    for target, found_for in candidates.items():
        usable = [candidate for candidate in found_for if not _add_problem(problems, target, candidate, expected)]
        if not usable:
            continue
        best = max(usable, key=lambda candidate: _precision(candidate, target))
        chosen[target] = best
        if others := [candidate for candidate in usable if candidate is not best]:
            repeated[target] = others
    problems += [
        f"missing: {', '.join(to_official_names(name, shape).values())}"
        for name, shape in expected.items()
        if name not in candidates
    ]
    problems += _differences(chosen, repeated)
    if problems:
        raise ConversionError(problems)
    order = {id(file): index for index, file in enumerate(file for source in sources for file in source.files)}
    in_order = sorted(chosen, key=lambda name: order[id(chosen[name].file)])
    return Plan(config, list(sources), {name: chosen[name] for name in in_order}, repeated, left_out)


def _add_problem(problems: list[str], target: str, candidate: _Candidate, expected: Mapping[str, torch.Size]) -> bool:
    try:
        tensor = candidate.join(target, on_meta=True)
    except (ValueError, RuntimeError) as error:
        problems.append(f"incomplete: {error} ({candidate.source.name})")
        return True
    if tensor.shape != expected[target]:
        problems.append(
            f"wrong shape: {candidate.official_name} is {tuple(tensor.shape)}, expected {tuple(expected[target])} "
            f"({candidate.source.name})"
        )
        return True
    if not tensor.is_floating_point():
        problems.append(f"wrong type: {candidate.official_name} is {tensor.dtype} ({candidate.source.name})")
        return True
    return False


def _precision(candidate: _Candidate, target: str) -> int:
    return _PRECISION[candidate.join(target, on_meta=True).dtype]


def _differences(chosen: Mapping[str, _Candidate], repeated: Mapping[str, Sequence[_Candidate]]) -> list[str]:
    """Parameters that sources hold with different values, compared file by file."""
    # By pair, the checksums of both sides in the coarser precision of the two.
    sums: dict[tuple[int, int], list[str]] = {}
    work: list[tuple[_Candidate, str, torch.dtype, tuple[int, int]]] = []
    pairs = [(target, chosen[target], other) for target, others in repeated.items() for other in others]
    for target, best, other in pairs:
        coarser = min(
            (candidate.join(target, on_meta=True).dtype for candidate in (best, other)), key=_PRECISION.__getitem__
        )
        for candidate in (best, other):
            work.append((candidate, target, coarser, (id(best), id(other))))
    for file in {id(candidate.file): candidate.file for candidate, *_ in work}.values():
        for candidate, target, dtype, pair in work:
            if candidate.file is file:
                sums.setdefault(pair, []).append(checksum(candidate.join(target).to(dtype)))
        file.release()
    return [
        f"differs: {best.official_name} of {best.source.name} and {other.official_name} of {other.source.name}"
        for _, best, other in pairs
        if len(set(sums[id(best), id(other)])) > 1
    ]


def _kept_in_float32(config: LionConfig) -> re.Pattern[str]:
    """The names of parameters that a float16 model keeps in float32, by transformers' rule."""
    with torch.device("meta"):
        modules = LionForConditionalGeneration(config)._keep_in_fp32_modules
    return re.compile("|".join(rf"(?:^|\.){re.escape(module)}(?:$|\.)" for module in modules))


@dataclass
class OfficialFiles:
    """
    The files that make up a released LION.

    Args:
        checkpoint (`Path`): The learnt parts, perhaps with frozen ones (`LION-FlanT5-XL.pth`).
        text_model (`Path`): Directory with configuration and tokenizer of the T5, and with its weights unless
            `checkpoint` holds them.
        qformer_tokenizer (`Path`): Directory with the tokenizer of the Q-Former (`bert-base-uncased`).
        vision (`Path`, *optional*): The vision tower (`eva_vit_g.pth`), unless `checkpoint` holds it.
        config (`Path`, *optional*): A LION configuration, for sizes that weights don't show.
        ram (`Path`, *optional*): The tagger (`ram_swin_large_14m.pth`).
        ram_names (`dict`): Its names and thresholds, see `read_tag_files`.
    """

    checkpoint: Path
    text_model: Path
    qformer_tokenizer: Path
    vision: Path | None = None
    config: Path | None = None
    ram: Path | None = None
    ram_names: dict[str, Any] = field(default_factory=dict)

    def sources(self) -> list[Source]:
        """Weights of LION itself, opened."""
        if not self.text_model.is_dir():
            raise FileNotFoundError(f"there is no directory {self.text_model} with the T5")
        sources = [open_source(self.checkpoint.name, self.checkpoint)]
        if self.vision is not None:
            sources.append(open_source(self.vision.name, self.vision, VISION_PREFIX))
        if find_weights(self.text_model):
            sources.append(open_source(self.text_model.resolve().name, self.text_model, TEXT_PREFIX))
        return sources


class OfficialConversion:
    """
    A released LION, checked and ready to be written.

    Args:
        files ([`OfficialFiles`]): What there is.

    Raises:
        ConversionError: the files don't make up a model; nothing has been written.
        OSError, ValueError: a file is missing, damaged or not safe to load.
    """

    def __init__(self, files: OfficialFiles):
        self.files = files
        sources = files.sources()
        self.plan = plan_conversion(sources, self._config(sources))
        release(file for source in sources for file in source.files)
        self.processor = self._processor()
        self.tagger = None if files.ram is None else _TaggerConversion(files.ram, files.ram_names)

    @property
    def config(self) -> LionConfig:
        return self.plan.config

    @property
    def released_name(self) -> str | None:
        """`"flan-t5-xl"` or `"flan-t5-xxl"`, if the LLM is one of these."""
        return released_name(self.config)

    def _config(self, sources: list[Source]) -> LionConfig:
        if self.files.config is not None:
            fields = read_json(self.files.config)
            return LionConfig(**{name: value for name, value in fields.items() if name != "model_type"})
        text_file, bert_file = self.files.text_model / _CONFIG, self.files.qformer_tokenizer / _CONFIG
        if not text_file.is_file():
            raise FileNotFoundError(f"there is no {text_file}")
        bert_config = read_json(bert_file) if bert_file.is_file() else None
        try:
            return infer_lion_config(official_shapes(sources), read_json(text_file), bert_config)
        except ValueError as error:
            raise ConversionError([str(error)]) from error

    def _processor(self) -> LionProcessor:
        for directory in (self.files.text_model, self.files.qformer_tokenizer):
            if not directory.is_dir():
                raise FileNotFoundError(f"there is no directory {directory} with a tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(self.files.text_model)
        qformer_tokenizer = add_qformer_bos_token(AutoTokenizer.from_pretrained(self.files.qformer_tokenizer))
        problems = []
        if len(tokenizer) > self.config.text_config.vocab_size:
            problems.append(
                f"tokenizer: that of {self.files.text_model.name} has {len(tokenizer)} tokens, and the T5 "
                f"{self.config.text_config.vocab_size} embeddings"
            )
        vocab_size = self.config.qformer_config.vocab_size
        if "qformer" in self.config.visual_branches and len(qformer_tokenizer) != vocab_size:
            problems.append(
                f"tokenizer: that of {self.files.qformer_tokenizer.name} has {len(qformer_tokenizer)} tokens with "
                f"[DEC], and the Q-Former {vocab_size} embeddings"
            )
        if problems:
            raise ConversionError(problems)
        image_processor = LionImageProcessor(size=self.config.vision_config.image_size)
        return LionProcessor(image_processor, tokenizer, qformer_tokenizer)

    def write(self, directory: str | os.PathLike, dtype: torch.dtype, max_shard_size: int) -> Path:
        """
        Write the checkpoint.

        Args:
            directory (`str` or `os.PathLike`): Where; it must not exist, or be empty.
            dtype (`torch.dtype`): Of LION's weights. The tagger keeps its own.
            max_shard_size (`int`): Bytes of tensors in one file.

        Returns:
            `Path`: the directory.

        Raises:
            FileExistsError: there is something in `directory`.
            OSError: no room on the disk, or it can't be written to.
        """
        tensors = self.plan.tensors(dtype)
        needed = sum(info.num_bytes for info in tensors.values())
        needed += 0 if self.tagger is None else self.tagger.num_bytes
        with new_directory(directory, needed) as partial:
            # transformers 5 loads weights that have no configuration, taking its defaults, which are a released LION's.
            # So they are out of its sight until everything else is there, and their index comes last.
            unfinished = partial / "unfinished"
            unfinished.mkdir()
            write_shards(unfinished, tensors, lambda name: self._read(name, tensors[name].dtype), max_shard_size)
            self.processor.save_pretrained(partial)
            write_code(partial, LION_CODE)
            if self.tagger is not None:
                self.tagger.write(partial / TAGGER_SUBFOLDER)
            write_card(partial / CARD_FILE, self._card_facts(dtype))
            self._write_config(partial, dtype)
            _reveal(unfinished)
        return Path(directory)

    def _read(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        file = self.plan.chosen[name].file
        # Parameters come file by file: what the last one took is not needed any more.
        release(other for source in self.plan.sources for other in source.files if other is not file)
        return self.plan.read(name, dtype)

    def _write_config(self, directory: Path, dtype: torch.dtype) -> None:
        with torch.device("meta"):
            model = LionForConditionalGeneration(self.config)
        model.generation_config.save_pretrained(directory)
        config = model.config
        config.architectures = [type(model).__name__]
        for part in (config, *(getattr(config, name) for name in config.sub_configs)):
            part.dtype = str(dtype).removeprefix("torch.")
        config.auto_map = dict(LION_AUTO_MAP)
        config.custom_pipelines = LION_PIPELINES
        config.save_pretrained(directory)

    def _card_facts(self, dtype: torch.dtype) -> CardFacts:
        name = {"flan-t5-xl": "LION-4B (FlanT5-XL)", "flan-t5-xxl": "LION-12B (FlanT5-XXL)"}
        counts = self.plan.counts()
        sources = {source: f"{count['taken']:,} tensors" for source, count in counts.items() if count["taken"]}
        if self.tagger is not None:
            sources[self.tagger.file.path.name] = "the tagger"
        return CardFacts(
            title=name.get(self.released_name or "", "LION"),
            config=self.config,
            num_parameters=sum(count["elements"] for count in counts.values()),
            dtype=str(dtype).removeprefix("torch."),
            converted_from=sources,
            tagger_config=None if self.tagger is None else self.tagger.config,
            tagger_parameters=None if self.tagger is None else self.tagger.num_parameters,
        )

    def verify(self, directory: str | os.PathLike) -> list[str]:
        """
        Read a converted checkpoint back and compare every tensor's checksum with that of its sources.

        Returns:
            `list[str]`: what is wrong; empty if everything is as it should be.

        Raises:
            OSError, ValueError: the directory is no checkpoint.
        """
        directory = Path(directory)
        if not (directory / _CONFIG).is_file():
            raise FileNotFoundError(f"{directory} is no checkpoint: it has no {_CONFIG}")
        written, problems = _stored(directory)
        expected = expected_shapes(LionConfig.from_pretrained(directory))
        problems += [f"missing: {name}" for name in expected.keys() - written.keys()]
        problems += [f"unexpected: {name}" for name in written.keys() - expected.keys()]
        for name, candidate in self.plan.chosen.items():
            if name in written:
                stored = written[name].read(name)
                if checksum(self._read(name, stored.dtype)) != checksum(stored):
                    problems.append(f"differs: {name}, from {candidate.official_name} of {candidate.source.name}")
        LionProcessor.from_pretrained(directory)
        if self.tagger is not None:
            problems += self.tagger.verify(directory / TAGGER_SUBFOLDER)
        return sorted(problems)


class _TaggerConversion:
    """
    The released tagger. It is small beside LION, so transformers writes it, under names that both its versions load.
    """

    def __init__(self, path: Path, names: Mapping[str, Any]):
        self.file = open_weights(path)
        shapes = {name: info.shape for name, info in self.file.tensors.items()}
        try:
            names = dict(names)
            if "class_threshold" in shapes and "thresholds" not in names:
                names["thresholds"] = self.file.read("class_threshold").tolist()
            self.config: RamConfig = infer_ram_config(shapes, **names)
            on_meta = {
                name: torch.empty(info.shape, dtype=info.dtype, device="meta")
                for name, info in self.file.tensors.items()
            }
            if "class_threshold" in on_meta:
                on_meta["class_threshold"] = self.file.read("class_threshold")
            convert_ram_checkpoint(on_meta, self.config)
        except ValueError as error:
            raise ConversionError([f"{path.name}: {error}"]) from error
        with torch.device("meta"):
            model = RamForImageTagging(self.config)
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.num_bytes = 4 * self.num_parameters
        self.file.release()

    def model(self) -> RamForImageTagging:
        tensors = {name: self.file.read(name) for name in self.file.tensors}
        with torch.device("meta"):
            model = RamForImageTagging(self.config)
        converted = convert_ram_checkpoint(tensors, self.config)
        # Buffers that are in no checkpoint are recomputed by whoever loads it.
        model.load_state_dict({name: tensor.clone() for name, tensor in converted.items()}, assign=True)
        self.file.release()
        return model

    def write(self, directory: Path) -> None:
        model = self.model()
        model.save_pretrained(directory)
        image_size = self.config.vision_config.image_size
        LionImageProcessor.for_tagging(size=image_size).save_pretrained(directory)
        logger.info("Wrote the tagger.")

    def verify(self, directory: Path) -> list[str]:
        if not (directory / _CONFIG).is_file():
            return [f"missing: the tagger in {directory}"]
        loaded = RamForImageTagging.from_pretrained(directory, dtype="auto").state_dict()
        return [
            f"differs: tagger, {name}"
            for name, tensor in self.model().state_dict().items()
            if not tensor.is_meta and checksum(tensor.to(loaded[name].dtype)) != checksum(loaded[name])
        ]


@contextmanager
def new_directory(directory: str | os.PathLike, num_bytes: int = 0) -> Iterator[Path]:
    """
    A directory that gets its name when it is complete: until then, and after an error, there is none.

    What an interrupted run has left under the name with `.partial` is replaced.

    Raises:
        FileExistsError: there is something at that place already.
        OSError: the disk has no room for `num_bytes`.
    """
    directory = Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(f"{directory} exists already and is not empty")
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(directory.name + PARTIAL_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    free = shutil.disk_usage(directory.parent).free
    if free < num_bytes + _MIN_FREE:
        raise OSError(f"{directory.parent} has {free / 1e9:.1f} GB of room, and {num_bytes / 1e9:.1f} GB are needed")
    partial.mkdir()
    try:
        yield partial
        if directory.exists():
            directory.rmdir()
        partial.rename(directory)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _reveal(unfinished: Path) -> None:
    """Move weights to where they are looked for, their index last."""
    for file in sorted(unfinished.iterdir(), key=lambda file: file.suffix == ".json"):
        file.rename(unfinished.parent / file.name)
    unfinished.rmdir()


def _stored(directory: Path) -> tuple[dict[str, WeightFile], list[str]]:
    """By name of the parameter, the file of a checkpoint that it is in; and what is there twice."""
    files: dict[str, WeightFile] = {}
    problems = []
    for path in find_weights(directory):
        file = open_weights(path)
        problems += [f"twice: {name}" for name in file.tensors if name in files]
        files |= dict.fromkeys(file.tensors, file)
    return files, problems


def to_official(directory: str | os.PathLike, output: str | os.PathLike) -> dict[str, TensorInfo]:
    """
    Write a LION checkpoint, or a tagger, as one safetensors file with official names, for comparison with the authors'
    code.

    Every name of the official state dict is there, tied copies and position ids included, so that it loads strictly. Of
    a tagger, only the constants are not there that the official loader drops.

    Args:
        directory (`str` or `os.PathLike`): A checkpoint of this package.
        output (`str` or `os.PathLike`): The file; it must not exist.

    Returns:
        `dict[str, TensorInfo]`: what was written.

    Raises:
        FileExistsError: there is something at `output`.
        OSError, ValueError: the directory is no checkpoint, or one that the official code has no place for.
    """
    directory, output = Path(directory), Path(output)
    if output.exists():
        raise FileExistsError(f"{output} exists already")
    if not (directory / _CONFIG).is_file():
        raise FileNotFoundError(f"{directory} is no checkpoint: it has no {_CONFIG}")
    fields = read_json(directory / _CONFIG)
    model_type = fields.get("model_type")
    read: Callable[[str], torch.Tensor]
    if model_type == RamConfig.model_type:
        official = to_official_ram(RamForImageTagging.from_pretrained(directory, dtype="auto"))
        read = official.__getitem__
        tensors = {name: TensorInfo(tensor.shape, tensor.dtype) for name, tensor in official.items()}
    elif model_type == LionConfig.model_type:
        tensors, read = _official_lion(directory, LionConfig.from_pretrained(directory))
    else:
        raise ValueError(f"{directory} holds neither a LION nor its tagger, but a model of the type {model_type!r}")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(output.name + PARTIAL_SUFFIX)
    try:
        write_safetensors(partial, tensors, read)
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return tensors


def _official_lion(directory: Path, config: LionConfig) -> tuple[dict[str, TensorInfo], Callable[[str], torch.Tensor]]:
    stored, problems = _stored(directory)
    expected = expected_shapes(config)
    problems += [f"missing: {name}" for name in expected.keys() - stored.keys()]
    problems += [f"unexpected: {name}" for name in stored.keys() - expected.keys()]
    if problems:
        raise ConversionError(problems)
    ours: dict[str, str] = {}
    tensors: dict[str, TensorInfo] = {}
    for name, file in stored.items():
        info = file.tensors[name]
        for official_name, part in split(name, torch.zeros(info.shape, dtype=info.dtype, device="meta")).items():
            ours[official_name] = name
            tensors[official_name] = TensorInfo(part.shape, part.dtype)
    for stack in ("encoder", "decoder"):
        copy, shared = f"{TEXT_PREFIX}{stack}.embed_tokens.weight", f"{TEXT_PREFIX}shared.weight"
        ours[copy], tensors[copy] = ours[shared], tensors[shared]
    position_ids = "Qformer.bert.embeddings.position_ids"
    positions = torch.arange(config.qformer_config.max_position_embeddings).unsqueeze(0)
    if "qformer" in config.visual_branches:
        tensors[position_ids] = TensorInfo(positions.shape, positions.dtype)

    def read(official_name: str) -> torch.Tensor:
        if official_name == position_ids:
            return positions
        name = ours[official_name]
        parts = split(name, stored[name].read(name))
        return next(iter(parts.values())) if is_tied_copy(official_name) else parts[official_name]

    return tensors, read
