"""What the card of a checkpoint of LION says, from what is known about it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from configuration_lion.configuration_lion import LionConfig
from configuration_lion.configuration_ram import RamConfig
from trainers.publishing.markdown import card_text, markdown_table


_TAGS = (
    "lion",
    "image-to-text",
    "image-captioning",
    "visual-question-answering",
    "visual-grounding",
    "image-tagging",
    "custom_code",
)

_BRANCHES = {
    "qformer": "the Q-Former's {queries} tokens, which read the image in the light of the instruction",
    "aggregator": "{patches} tokens of the vision aggregator, one for every patch and one for the whole image",
}

_CITATION = """\
```bibtex
@inproceedings{chen2024lion,
  title     = {LION: Empowering Multimodal Large Language Model with Dual-Level Visual Knowledge},
  author    = {Chen, Gongwei and Shen, Leyang and Shao, Rui and Deng, Xiang and Nie, Liqiang},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  year      = {2024}
}
```"""


@dataclass
class CardFacts:
    """
    What a card says.

    Args:
        title (`str`): Name of the model.
        config ([`LionConfig`]): Its sizes.
        num_parameters (`int`): Of LION, without the tagger.
        dtype (`str`): Of its weights.
        repo_id (`str`, *optional*): Where it will be; a placeholder stands in the examples until that is known.
        converted_from (`Mapping[str, str]`): Files that the weights come from, and what was taken from each.
        tagger_config ([`RamConfig`], *optional*): Of the tagger in `tagger/`.
        tagger_parameters (`int`, *optional*): Its size.
        metadata (`Mapping[str, Any]`): Further entries of the card's head, such as `license`.
        sections (`Mapping[str, str]`): Further sections by their titles, such as `"Evaluation"`, in Markdown.
    """

    title: str
    config: LionConfig
    num_parameters: int
    dtype: str
    repo_id: str | None = None
    converted_from: Mapping[str, str] = field(default_factory=dict)
    tagger_config: RamConfig | None = None
    tagger_parameters: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, str] = field(default_factory=dict)


def render_card(facts: CardFacts) -> str:
    """The card as Markdown, with the Hub's metadata at its head."""
    sections = {
        "": _introduction(facts),
        "Use in transformers": _uses(facts),
        "Origin of the weights": _origin(facts),
        **facts.sections,
        "Limits": _limits(facts),
        "Citation": _CITATION,
    }
    body = "\n\n".join(f"## {title}\n\n{text}" if title else text for title, text in sections.items() if text)
    metadata = {
        "language": ["en"],
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "tags": list(_TAGS),
        **facts.metadata,
    }
    return card_text(metadata, f"# {facts.title}\n\n{body}\n")


def _introduction(facts: CardFacts) -> str:
    config, vision = facts.config, facts.config.vision_config
    tokens = {"queries": config.num_query_tokens, "patches": (vision.image_size // vision.patch_size) ** 2 + 1}
    branches = ["- " + _BRANCHES[branch].format(**tokens) for branch in config.visual_branches]
    adapters = ", ".join(config.adapter_config.adapters).replace("_", "-") or "none"
    rows = [
        ("LION (vision tower, visual branches, T5)", f"{facts.num_parameters:,} parameters in {facts.dtype}"),
        ("image", f"{vision.image_size} × {vision.image_size} pixels, {vision.patch_size} pixels a patch"),
        ("adapters beside every feed-forward layer", adapters),
    ]
    if facts.tagger_config is not None:
        parameters = "" if facts.tagger_parameters is None else f"{facts.tagger_parameters:,} parameters, "
        rows.append(("tagger, in the subfolder `tagger/`", f"{parameters}{facts.tagger_config.num_tags:,} tags"))
    table = markdown_table(["part", ""], rows).rstrip("\n")
    return (
        "LION (JiuTian-LION, CVPR 2024) is a multimodal LLM that answers instructions about an image with words and "
        "with boxes.\nIts LLM, a T5, reads the prompt behind\n\n"
        + "\n".join(branches)
        + "\n\nImage tags may stand in the prompt, behind a learned soft prompt that tells the LLM how far to trust "
        f"them.\n\n{table}"
    )


def _uses(facts: CardFacts) -> str:
    repo = facts.repo_id or "{{ repo_id }}"
    tags = (
        "Without `tags=`, the pipeline asks the tagger in `tagger/` first."
        if facts.tagger_config is not None
        else "The repo has no tagger: give tags with `tags=`, or none."
    )
    return f"""\
The repo brings its own code: torch, transformers (4.57 or 5) and Pillow are all it needs.

```python
from transformers import pipeline

pipe = pipeline("image-to-text", model="{repo}", trust_remote_code=True)
pipe("image.png")  # a short caption
pipe("image.png", prompt="Question: what is on the table? Short answer:")
pipe("image.png", prompt="In the image <image>, can you locate the red cup and let me know its coordinates?")
```

{tags} An answer with boxes comes with `boxes`, `[x1, y1, x2, y2]` in pixels of the image as given.
Model and processor by themselves:

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained("{repo}", trust_remote_code=True)
model = AutoModelForImageTextToText.from_pretrained("{repo}", trust_remote_code=True, dtype="auto")
inputs = processor(images=image, text="What is on the left?", tags=["dog", "table"]).to(model.dtype)
processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)
```"""


def _origin(facts: CardFacts) -> str:
    if not facts.converted_from:
        return ""
    rows = [(f"`{file}`", taken) for file, taken in facts.converted_from.items()]
    sources = "EVA-CLIP, FLAN-T5, BERT, LION" + (", RAM" if facts.tagger_config is not None else "")
    return (
        "Converted by `lion convert official`, without training:\n\n"
        f"{markdown_table(['file', 'taken from it'], rows)}\nThe weights follow the terms of their sources: {sources}."
    )


def _limits(facts: CardFacts) -> str:
    limits = [
        "Like any such model it answers whether or not it knows; a box is an answer in words, not a measurement.",
        "A prompt holds one image and one instruction; there is no memory of earlier turns.",
        "Loading with `trust_remote_code=True` runs this repo's code. Read it, and pin a `revision`.",
    ]
    if facts.tagger_config is not None:
        limits.insert(1, "Tags come from a list; a wrong tag can end up in the answer.")
    return "\n".join(f"- {limit}" for limit in limits)
