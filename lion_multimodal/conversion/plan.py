"""For every parameter of a LION, the file that it comes from; before that is known, nothing is written."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from configuration_lion.configuration_lion import LionConfig
from lion_multimodal.conversion.checkpoint import expected_shapes
from lion_multimodal.conversion.files import TensorInfo, WeightFile, checksum, find_weights, open_weights
from lion_multimodal.conversion.names import is_not_needed, is_tied_copy, join, to_official_names, to_our_name
from modeling_lion.modeling_lion import LionForConditionalGeneration


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
