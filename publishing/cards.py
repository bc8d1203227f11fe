"""The card of a repo: made where nobody has written one, and freed of what belongs to this machine."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import CardData, RepoCard

from publishing.selection import ADAPTER, CONFIG, Selection, read_safetensors_header
from publishing.traces import is_local


# The libraries' templates and this project's: nobody has written anything yet.
_UNWRITTEN = "[More Information Needed]"
_REPO_ID = "{{ repo_id }}"

_CHECKPOINT = """# {name}

LION (JiuTian-LION, CVPR 2024, [arXiv 2311.11860](https://arxiv.org/abs/2311.11860)) is a multimodal LLM with two levels
of visual knowledge. It answers instructions about a picture with words and with boxes.

| what | size |
|---|---|
{rows}

## Use

The repo brings its own code: torch, transformers (4.57 or 5) and Pillow are all it needs.

```python
from transformers import pipeline

pipe = pipeline("image-to-text", model="{repo_id}", trust_remote_code=True)
pipe("picture.png")  # a short caption
pipe("picture.png", prompt="In the image <image>, can you locate the dog and let me know its coordinates?")
```

Loading with `trust_remote_code=True` runs this repo's code. Read it, and pin a `revision`.
"""

_ADAPTER = """# {name}

An adapter for a LION (JiuTian-LION, CVPR 2024, [arXiv 2311.11860](https://arxiv.org/abs/2311.11860)), made with PEFT.

| what | value |
|---|---|
{rows}

## Use

```python
from peft import PeftModel

from modeling_lion import LionForConditionalGeneration  # also registers the method with PEFT

base = LionForConditionalGeneration.from_pretrained("{base_model}")
model = PeftModel.from_pretrained(base, "{repo_id}")
```
"""


def is_written(text: str | None) -> bool:
    """Whether somebody has written a card, and not only a library."""
    return bool(text and text.strip()) and _UNWRITTEN not in str(text)


def make_card(selection: Selection, repo_id: str, base_model: str | None = None) -> str:
    """
    A card that says what the files themselves say, and how to load them.

    Args:
        selection: the repo's files.
        repo_id: its name.
        base_model: the name of the base model on the Hub, for an adapter.
    """
    config = json.loads(selection.files[CONFIG[selection.kind]].read_text(encoding="utf-8"))
    name = repo_id.rpartition("/")[2]
    metadata: dict[str, Any]
    if selection.kind == ADAPTER:
        named = config.get("base_model_name_or_path")
        base_model = base_model or (None if not named or is_local(named) else named)
        metadata = {"library_name": "peft", "base_model": base_model, "tags": ["lion"]}
        rows = _adapter_rows(config, selection)
        text = _ADAPTER.format(name=name, rows=rows, repo_id=repo_id, base_model=base_model or "BASE_MODEL")
    else:
        tags = ["lion", "image-to-text", "visual-question-answering", "visual-grounding", "custom_code"]
        metadata = {"library_name": "transformers", "pipeline_tag": "image-text-to-text", "tags": tags}
        text = _CHECKPOINT.format(name=name, rows=_checkpoint_rows(config, selection), repo_id=repo_id)
    return f"---\n{CardData(**metadata).to_yaml()}\n---\n\n{text}"


def finish_card(text: str, repo_id: str, base_model: str | None = None) -> str:
    """
    A card with the repo's name in its place, and without local paths in its metadata.

    Raises:
        ValueError: its metadata is no mapping in YAML.
    """
    text = text.replace(_REPO_ID, repo_id)
    if not text.startswith("---") and base_model is None:
        return text
    card = RepoCard(text)
    data = card.data.to_dict()
    named = data.get("base_model") or []
    bases = [named] if isinstance(named, str) else list(named)
    tags = data.get("tags") or []
    kept = [base_model] if base_model else [base for base in bases if not is_local(base)]
    kept_tags = [tag for tag in tags if not _names_local_base(tag)]
    if kept == bases and kept_tags == tags:
        return text
    card.data["base_model"] = kept[0] if len(kept) == 1 else kept or None
    card.data["tags"] = kept_tags or None
    return str(card)


def _names_local_base(tag: Any) -> bool:
    return isinstance(tag, str) and tag.startswith("base_model:") and is_local(tag.rpartition(":")[2])


def _adapter_rows(config: Mapping[str, Any], selection: Selection) -> str:
    fields = {
        "method": "peft_type",
        "adapters": "adapters",
        "bottleneck": "bottleneck_size",
        "trained modules": "trained_modules",
        "visual branches": "visual_branches",
    }
    rows = {label: config[field] for label, field in fields.items() if config.get(field)}
    rows["parameters"] = f"{_count_parameters(selection.files, ''):,}"
    return _table(rows)


def _checkpoint_rows(config: Mapping[str, Any], selection: Selection) -> str:
    folders = {Path(file).parent.as_posix() for file in selection.files if file.endswith(".safetensors")}
    rows: dict[str, Any] = {}
    for folder in sorted(folders):
        label = "parameters" if folder == "." else f"parameters in `{folder}/`"
        rows[label] = f"{_count_parameters(selection.files, folder):,}"
    size = (config.get("vision_config") or {}).get("image_size")
    if size:
        rows["picture"] = f"{size} x {size} pixels"
    return _table(rows)


def _table(rows: Mapping[str, Any]) -> str:
    return "\n".join(
        f"| {label} | {', '.join(f'`{entry}`' for entry in value) if isinstance(value, list) else value} |"
        for label, value in rows.items()
    )


def _count_parameters(files: Mapping[str, Path], folder: str) -> int:
    """The elements of all tensors in the safetensors files of a folder, "" for all folders."""
    return sum(
        math.prod(entry["shape"])
        for file, path in files.items()
        if file.endswith(".safetensors") and folder in ("", Path(file).parent.as_posix())
        for name, entry in read_safetensors_header(path).items()
        if name != "__metadata__"
    )
