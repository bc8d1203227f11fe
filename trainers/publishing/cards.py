"""The card of a repo: made where nobody has written one, and freed of what belongs to this machine."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import RepoCard

from trainers.publishing.markdown import card_text, markdown_table
from trainers.publishing.selection import ADAPTER, CHECKPOINT, CONFIG, Selection, read_json, read_safetensors_header
from trainers.publishing.traces import is_local


# The libraries' templates and this project's: nobody has written anything yet.
_UNWRITTEN = "[More Information Needed]"
_REPO_ID = "{{ repo_id }}"

_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
_ADAPTER_ROWS = {
    "method": "peft_type",
    "adapters": "adapters",
    "bottleneck": "bottleneck_size",
    "trained modules": "trained_modules",
    "visual branches": "visual_branches",
}

_ADAPTER = """# {name}

An adapter for a LION (JiuTian-LION, CVPR 2024, [arXiv 2311.11860](https://arxiv.org/abs/2311.11860)), made with PEFT.

{table}
## Use

```python
from peft import PeftModel

import modeling_lion.peft_lion  # registers the method with PEFT
from modeling_lion import LionForConditionalGeneration

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
    if selection.kind == CHECKPOINT:
        return _checkpoint_card(selection, repo_id)
    config = read_json(selection.files[CONFIG[ADAPTER]])
    named = config.get("base_model_name_or_path")
    base_model = base_model or (None if not named or is_local(named) else named)
    metadata: dict[str, Any] = {"library_name": "peft", "base_model": base_model, "tags": ["lion"]}
    rows = {label: config[field] for label, field in _ADAPTER_ROWS.items() if config.get(field)}
    rows["parameters"] = f"{_count_parameters(selection, '.')[0]:,}"
    text = _ADAPTER.format(
        name=repo_id.rpartition("/")[2], table=_table(rows), repo_id=repo_id, base_model=base_model or "BASE_MODEL"
    )
    return card_text(metadata, text)


def _checkpoint_card(selection: Selection, repo_id: str) -> str:
    from configuration_lion import LionConfig, RamConfig  # load transformers, which an adapter's card can do without
    from modeling_lion.hub_lion import TAGGER_SUBFOLDER
    from trainers.publishing.lion_card import CardFacts, render_card

    config = read_json(selection.files[CONFIG[CHECKPOINT]])
    if config.get("model_type") != LionConfig.model_type:
        return card_text({"library_name": "transformers"}, f"# {repo_id.rpartition('/')[2]}\n")
    parameters, dtype = _count_parameters(selection, ".")
    tagger = f"{TAGGER_SUBFOLDER}/{CONFIG[CHECKPOINT]}"
    has_tagger = tagger in selection.files
    return render_card(
        CardFacts(
            title=repo_id.rpartition("/")[2],
            config=LionConfig.from_dict(config),
            num_parameters=parameters,
            dtype=dtype,
            repo_id=repo_id,
            tagger_config=RamConfig.from_dict(read_json(selection.files[tagger])) if has_tagger else None,
            tagger_parameters=_count_parameters(selection, TAGGER_SUBFOLDER)[0] if has_tagger else None,
        )
    )


def finish_card(text: str, repo_id: str, base_model: str | None = None) -> str:
    """
    A card with the repo's name in its place, and without local paths in its metadata.

    Raises:
        ValueError: its metadata is no mapping in YAML.
    """
    text = text.replace(_REPO_ID, repo_id)
    if not text.startswith("---") and base_model is None:
        return text
    try:
        card = RepoCard(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"the head of README.md is no YAML mapping: {' '.join(str(error).split())}") from None
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


def tag_card(tags: str | Iterable[str] = (), dataset_name: str | None = None) -> Callable[[str], str]:
    """
    A function that adds to a card's metadata.

    Args:
        tags: beside those it has.
        dataset_name: a data set on the Hub.
    """
    wanted = [tags] if isinstance(tags, str) else list(tags)

    def edit(text: str) -> str:
        card = RepoCard(text)
        had = list(card.data.get("tags") or [])
        card.data["tags"] = had + [tag for tag in dict.fromkeys(wanted) if tag not in had] or None
        if dataset_name is not None:
            named = card.data.get("datasets") or []
            named = [named] if isinstance(named, str) else list(named)
            card.data["datasets"] = named if dataset_name in named else [*named, dataset_name]
        return str(card)

    return edit


def _names_local_base(tag: Any) -> bool:
    return isinstance(tag, str) and tag.startswith("base_model:") and is_local(tag.rpartition(":")[2])


def _table(rows: Mapping[str, Any]) -> str:
    cells = [
        (label, ", ".join(f"`{entry}`" for entry in value) if isinstance(value, list) else str(value))
        for label, value in rows.items()
    ]
    return markdown_table(["what", "value"], cells)


def _count_parameters(selection: Selection, folder: str) -> tuple[int, str]:
    """How many parameters the safetensors files of a folder hold, and the type of most of them."""
    counts: Counter[str] = Counter()
    for file, path in selection.files.items():
        if file.endswith(".safetensors") and Path(file).parent.as_posix() == folder:
            for name, entry in read_safetensors_header(path).items():
                # Buffers that are saved, too, hold whole numbers.
                if name != "__metadata__" and "F" in entry["dtype"]:
                    counts[entry["dtype"]] += math.prod(entry["shape"])
    dtype = max(counts, key=lambda name: counts[name], default="")
    return counts.total(), _DTYPES.get(dtype, dtype.lower())
