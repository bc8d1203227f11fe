import logging

import numpy as np
import pytest
import torch

from tests.trainers.conftest import make_image
from trainers.augmentation import Augmentation
from trainers.collator import LionDataCollator
from trainers.rows import BadRowError, BadRows


def row(index=0, **fields):
    return {
        "image": make_image(3, (80, 60)),
        "prompt": "question: what is this? short answer:",
        "completion": "a cat",
        "tags": None,
        "level": "auto",
        "source": "rows",
        "index": index,
        **fields,
    }


def test_rows_become_what_the_processor_makes_of_them(processor):
    rows = [
        row(),
        row(prompt="where is the cat?", completion=["[0.1,0.2,0.3,0.4]"], tags="cat, dog"),
        row(
            prompt=[{"role": "user", "content": "what is this?"}],
            completion=[{"role": "assistant", "content": "a dog"}],
            tags=[],
            level="region_level",
        ),
    ]
    batch = LionDataCollator(processor)(rows)
    expected = processor(
        images=[r["image"] for r in rows],
        text=[rows[0]["prompt"], rows[1]["prompt"], "what is this?"],
        tags=[None, "cat, dog", ""],
        level=["image_level", "region_level", "region_level"],
        answers=["a cat", "[0.1,0.2,0.3,0.4]", "a dog"],
    )
    assert set(batch) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor), name
    assert batch["level_ids"].tolist() == [1, 0, 0]


def test_augmentation_depends_on_seed_epoch_and_row_alone(processor):
    def pixels(rows, seed=0, epoch=0, global_seed=0):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        collator = LionDataCollator(processor, Augmentation(), seed=seed)
        collator.set_epoch(epoch)
        return collator(rows)["pixel_values"]

    rows = [row(0), row(1), row(2)]
    first = pixels(rows)
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first[[2, 0, 1]], pixels([rows[2], rows[0], rows[1]], global_seed=7))
    assert torch.equal(first[1:2], pixels([rows[1]]))
    for other in (pixels(rows, seed=1), pixels(rows, epoch=1), pixels([row(0, source="other")])):
        assert not torch.equal(first[:1], other[:1])


def test_levels_and_rows_choose_what_is_augmented(processor):
    def augmented(levels, **fields):
        collator = LionDataCollator(processor, Augmentation((0.5, 0.6), 0.0), augmented_levels=levels)
        plain = LionDataCollator(processor)([row(**fields)])
        return not torch.equal(collator([row(**fields)])["pixel_values"], plain["pixel_values"])

    assert augmented(["image_level"])
    assert not augmented(["image_level"], level="region_level")
    assert augmented(["image_level", "region_level"], level="region_level")
    assert not augmented(["image_level"], augment=False)
    assert augmented([], augment=True)


def test_alternative_answers_change_with_the_epoch(processor):
    collator = LionDataCollator(processor, Augmentation())
    answers = ["a cat", "a dog", "a bird"]
    seen = set()
    for epoch in range(20):
        collator.set_epoch(epoch)
        labels = collator([row(completion=answers)])["labels"]
        seen.add(processor.tokenizer.decode(labels[0], skip_special_tokens=True))
    assert seen == set(answers)
    # Evaluation always takes the first.
    labels = LionDataCollator(processor)([row(completion=answers)])["labels"]
    assert processor.tokenizer.decode(labels[0], skip_special_tokens=True) == "a cat"


def test_unusable_rows_keep_their_place_without_labels(processor, caplog):
    record = BadRows()
    collator = LionDataCollator(processor, bad_rows=record)
    with caplog.at_level(logging.WARNING):
        batch = collator([row(0), row(1, image={"bytes": b"broken", "path": None}), row(2, completion="")])
    assert batch["pixel_values"].shape[0] == 3
    assert (batch["labels"][0] != -100).any()
    assert (batch["labels"][1:] == -100).all()
    assert record.summary() == {"rows": 2}
    assert "Row 1 of 'rows' image cannot be read" in caplog.text

    with pytest.raises(BadRowError, match="Row 2 of 'rows' has an empty answer"):
        LionDataCollator(processor, bad_rows=BadRows("fail"))([row(2, completion="")])


def test_unknown_levels_are_refused(processor):
    with pytest.raises(ValueError, match="`augmented_levels`"):
        LionDataCollator(processor, augmented_levels=["pixel_level"])
