"""Requests in the shape of lmms-eval's, about pictures of the synthetic world."""

from dataclasses import dataclass, field
from typing import Any

from laboratory.world.scene import SPLITS, Scene, render, sample_scene


@dataclass
class Instance:
    """What lmms-eval's `Instance` is, for where it is not installed; `test_lmms_eval.py` compares the two."""

    request_type: str
    arguments: tuple
    idx: int
    metadata: dict[str, Any] = field(default_factory=dict)
    resps: list = field(default_factory=list)
    filtered_resps: dict = field(default_factory=dict)
    raw_filtered_resps: dict = field(default_factory=dict)
    token_counts: list = field(default_factory=list)
    task_name: Any = None
    doc_id: Any = None
    repeats: Any = None
    doc: Any = None

    def __post_init__(self) -> None:
        self.task_name = self.metadata["task"]
        self.doc_id = self.metadata["doc_id"]
        self.repeats = self.metadata["repeats"]

    @property
    def args(self) -> tuple:
        return self.arguments


def scenes(number: int, first: int = 900) -> list[Scene]:
    return [sample_scene(seed) for seed in SPLITS["test"][first : first + number]]


def scene_rows(shown: list[Scene]) -> list[dict[str, Any]]:
    """Rows with a picture each, as a data set would hold them."""
    return [{"image": render(scene), "answer": scene.objects[0].color} for scene in shown]


def doc_to_visual(row: dict[str, Any]) -> list:
    """As most of lmms-eval's tasks have it: a copy of the row's picture."""
    return [row["image"].convert("RGB")]


def generate_request(
    text: str, number: int, options: dict[str, Any] | None = None, task: str = "words", visual: Any = doc_to_visual
) -> Instance:
    """What `ConfigurableTask.construct_requests` makes for `generate_until`."""
    options = {"until": ["\n\n"], "do_sample": False} if options is None else options
    metadata = {"task": task, "doc_id": number, "repeats": 1, "split": "test"}
    return Instance("generate_until", (text, options, visual, number, task, "test"), 0, metadata)


def score_requests(text: str, candidates: list, number: int, task: str = "choices") -> list[Instance]:
    """What it makes for `multiple_choice`: a request for each candidate, behind the delimiter, a blank."""
    metadata = {"task": task, "doc_id": number, "repeats": 1, "split": "test"}
    return [
        Instance("loglikelihood", (text, f" {candidate}", doc_to_visual, number, task, "test"), place, metadata)
        for place, candidate in enumerate(candidates)
    ]
