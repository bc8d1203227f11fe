"""The training data of the paper, as data: each source with its files, wordings, weight and licence."""

from __future__ import annotations

import difflib

from trainers.sources.captioning import COCO_CAPTIONS, TEXTCAPS
from trainers.sources.instruction import LLAVA_INSTRUCT
from trainers.sources.question_answering import AOKVQA, OCRVQA, OKVQA, VQAV2
from trainers.sources.referring import REFCOCO, REFCOCO_PLUS, REFCOCOG, VISUAL_GENOME
from trainers.sources.source import LeftOut, RowKind, Sample, SourceForm, TrainingSource


SOURCES: dict[str, TrainingSource] = {
    source.name: source
    for source in (
        COCO_CAPTIONS,
        TEXTCAPS,
        VQAV2,
        OKVQA,
        AOKVQA,
        OCRVQA,
        LLAVA_INSTRUCT,
        REFCOCO,
        REFCOCO_PLUS,
        REFCOCOG,
        VISUAL_GENOME,
    )
}
"""All sources, in the order of the stages."""

GROUPS = ("stage1", "stage2", "all")
"""What names several sources at once."""


def get_sources(name: str) -> list[TrainingSource]:
    """
    Sources by name.

    Args:
        name (`str`): A source, `"stage1"`, `"stage2"` or `"all"`.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "all":
        return list(SOURCES.values())
    if name in GROUPS:
        return [source for source in SOURCES.values() if source.stage == name]
    if name not in SOURCES:
        near = difflib.get_close_matches(name, [*SOURCES, *GROUPS], n=3, cutoff=0.5)
        guess = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join([*GROUPS, *SOURCES])}"
        raise ValueError(f"unknown training source {name!r}; {guess}")
    return [SOURCES[name]]


__all__ = ["GROUPS", "SOURCES", "LeftOut", "RowKind", "Sample", "SourceForm", "TrainingSource", "get_sources"]
