"""
Rehearsal: what a finished LION answers today about the images that it is about to be fine-tuned on, as rows to train on
beside the new ones, so that it goes on answering so. Nobody needs the data it was trained on for that.

The idea is that of learning without forgetting (Li and Hoiem, arXiv 1606.09282) with whole answers for targets (Kim and
Rush, arXiv 1606.07947). What is asked has the forms of the benchmarks that LION is measured on: captions, POPE, VQAv2,
GQA, VSR, RefCOCO both ways.
"""

import itertools
import logging
import math
import random
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from tqdm.auto import tqdm

from configuration_lion import LEVELS
from modeling_lion import LionTagger
from modeling_lion.modeling_lion import LionForConditionalGeneration
from processing_lion import LionProcessor, format_prompt, infer_level, load_image, parse_boxes
from trainers.datasets_lion import ROW_FEATURES, image_files
from trainers.resumable_jsonl import ResumableJsonl


logger = logging.getLogger(__name__)

SOURCE = "rehearsal"
_KEY, _FIELDS = "image", ("rows",)
_BATCH_SIZE = 32
_MOST_WORDS = 4  # of a phrase that can stand in a question
_LONGEST_ANSWER = 64  # tokens
_ARTICLE = re.compile(r"^(?:an?|the|some|one|two|three|four|five|several|many)\s+", re.IGNORECASE)
_RELATIONS = ("to the left of", "to the right of", "above", "below")
_CAPTIONS = (format_prompt("caption_short"), "Describe the image.", "What does the image show?")
_PLACES = ("on the left", "on the right", "at the top", "at the bottom")


def phrases(caption: str, tags: Sequence[str] = ()) -> list[str]:
    """The things that a caption names, without articles; the tags where it names none that are short enough."""
    parts = (_ARTICLE.sub("", part.strip()) for part in re.split(r",|\.|\band\b|\bwith\b", caption))
    short = [part for part in parts if part and len(part.split()) <= _MOST_WORDS]
    return list(dict.fromkeys(short)) or list(tags) or ["object"]


def questions(
    names: Sequence[str],
    tags: Sequence[str],
    words: Sequence[str],
    rng: random.Random,
    trained: Collection[str] = (),
) -> Iterator[str]:
    """
    Instructions about an image, without end as long as there are any.

    Args:
        names (`Sequence[str]`): Phrases for what it shows, at least one.
        tags (`Sequence[str]`): Its tags; may be empty.
        words (`Sequence[str]`): Names of things in any image, of which some are not in this one.
        rng (`random.Random`): What they are drawn by.
        trained (`Collection[str]`): Instructions that are about to be learnt anew, and are not asked: a model that is
            to describe images in other words must not be taught its former ones at the same time.
    """

    def shortened(name: str) -> str:
        return name.split()[-1] if rng.random() < 0.4 else name

    def word() -> str:
        return rng.choice(tags) if tags and rng.random() < 0.5 else rng.choice(names).split()[-1]

    def ask(question: str) -> str:
        return question if rng.random() < 0.3 else format_prompt("vqa", question=question)

    def relation() -> str:
        first, second = rng.sample(list(names), 2) if len(names) > 1 else (names[0], rng.choice(words))
        first, second = shortened(first), shortened(second)
        between = rng.choice(_RELATIONS)
        return rng.choice(
            [
                ask(f"Is the {first} {between} the {second}?"),
                ask(f"Is the {first} {between} the {second}?"),
                ask(f"Is the {first} to the left or to the right of the {second}?"),
                ask(f"Is the {first} above or below the {second}?"),
                ask(f"Where is the {first} relative to the {second}?"),
                format_prompt("vsr", statement=f"The {first} is {between} the {second}."),
            ]
        )

    def place() -> str:
        name, where = shortened(rng.choice(names)), rng.choice(_PLACES)
        return rng.choice(
            [
                ask(f"Is the {name} {where}?"),
                ask(f"Is the {name} {where}?"),
                ask(f"Is the {name} on the left or on the right?"),
                ask(f"Is the {name} at the top or at the bottom?"),
                ask(f"Where is the {name}?"),
                format_prompt("vsr", statement=f"The {name} is {where}."),
            ]
        )

    def caption() -> str:
        return rng.choice(_CAPTIONS)

    def presence() -> str:
        name = rng.choice([word(), rng.choice(words)])
        return ask(f"Is there {'an' if name[0].lower() in 'aeiou' else 'a'} {name} in the image?")

    def number() -> str:
        return ask(rng.choice([f"How many {word()}s are there?", "How many objects are there?"]))

    def attribute() -> str:
        first, *others = rng.choice(names).split()
        colour = ask(f"What color is the {others[-1] if others else first}?")
        return rng.choice([colour, ask(f"What is the {first} object?")]) if others else colour

    def location() -> str:
        return format_prompt("rec", expression=f"the {rng.choice(names)}")

    # What takes counting and comparing is forgotten first.
    kinds = [presence, *[number] * 3, *[attribute] * 2, *[relation] * 3, *[place] * 2, *[location] * 2]
    if not set(_CAPTIONS) & set(trained):
        kinds.append(caption)
    barren = 0
    while barren < 100:  # rounds, in which there was nothing left to ask
        asked = [prompt for kind in rng.sample(kinds, len(kinds)) if (prompt := kind()) not in trained]
        yield from asked
        barren = 0 if asked else barren + 1


def rehearse(
    model: LionForConditionalGeneration,
    processor: LionProcessor,
    rows: datasets.Dataset,
    count: int,
    path: str | Path,
    seed: int = 42,
    tagger: LionTagger | None = None,
) -> None:
    """
    Ask a model about images, and keep its answers in a file. Interrupted, it goes on where it stopped.

    Args:
        model ([`LionForConditionalGeneration`]): Finished, not yet fine-tuned.
        processor ([`LionProcessor`]): Its processor.
        rows (`datasets.Dataset`): With the columns `image`, undecoded, whose images are asked about, and `prompt`, what
            is not asked.
        count (`int`): How many questions are asked, at least; those about boxes that it answers with come on top.
        path (`str` or `Path`): JSON Lines: `image` (number of a row) and `rows` (`prompt`, `completion`, `level`,
            `tags`).
        seed (`int`): What the questions are drawn by.
        tagger ([`LionTagger`], *optional*): Finds words to ask about; half of the images are asked about with tags.
    """
    images = _different_images(rows)
    per_image = math.ceil(count / len(images))
    if per_image == 1:
        images = sorted(random.Random(seed).sample(images, min(count, len(images))))
    records = ResumableJsonl(path, _KEY, _FIELDS)
    records.recover()
    known = {record[_KEY] for record in records.records()}
    asker = _Asker(model.eval(), processor, seed, per_image, tagger, frozenset(rows["prompt"]))
    blocks = [images[start : start + _BATCH_SIZE] for start in range(0, len(images), _BATCH_SIZE)]
    for block in tqdm(blocks, "Rehearsing what the base answers"):
        if not known.issuperset(block):
            records.append({_KEY: n, "rows": found} for n, found in asker.ask(rows, block) if n not in known)


def read_rehearsal(path: str | Path, rows: datasets.Dataset, count: int, seed: int = 42) -> datasets.Dataset:
    """`count` rows of what [`rehearse`] wrote, or all if there are fewer, with the columns of `rows`."""
    found = [(record[_KEY], row) for record in ResumableJsonl(path, _KEY, _FIELDS).records() for row in record["rows"]]
    random.Random(seed).shuffle(found)
    return datasets.Dataset.from_generator(
        _generate_rows, features=ROW_FEATURES, gen_kwargs={"rows": rows, "found": found[:count]}
    )


def _generate_rows(rows: datasets.Dataset, found: Sequence[tuple[int, dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for number, (image, row) in enumerate(found):
        completion = [row["completion"]]
        common = {"augment": False, "source": SOURCE, "index": number}
        yield {"image": rows[image]["image"], **row, "completion": completion, **common}


def _different_images(rows: datasets.Dataset) -> list[int]:
    """The numbers of rows that together show every image once, so far as images are files."""
    files = image_files(rows)
    if files is None:
        return list(range(len(rows)))
    return sorted({file: number for number, file in reversed(list(enumerate(files)))}.values())


class _Asker:
    def __init__(
        self,
        model: LionForConditionalGeneration,
        processor: LionProcessor,
        seed: int,
        per_image: int,
        tagger: LionTagger | None,
        trained: Collection[str],
    ):
        self.model, self.processor, self.tagger = model, processor, tagger
        self.seed, self.per_image, self.trained = seed, per_image, trained
        levels = model.config.adapter_config.adapters
        self.finds_boxes = "region_level" in levels

    @torch.inference_mode()
    def ask(self, rows: datasets.Dataset, block: Sequence[int]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
        """The rows about each image of a block; none where it cannot be opened."""
        images = {number: image for number in block if (image := _open(rows[number]["image"])) is not None}
        yield from ((number, []) for number in block if number not in images)
        if not images:
            return
        numbers = list(images)
        tags = dict(zip(numbers, self.tagger(list(images.values())) if self.tagger else [[]] * len(numbers)))
        pixels = self.processor.image_processor(list(images.values()), return_tensors="pt")["pixel_values"]
        features = self.model.encode_images(pixels.to(self.model.device))

        def answer(asked: list[tuple[int, str]], level: str) -> list[dict[str, Any]]:
            answered = []
            for start in range(0, len(asked), _BATCH_SIZE):
                part = asked[start : start + _BATCH_SIZE]
                own_tags = [", ".join(tags[n]) if tags[n] and n % 2 else None for n, _ in part]
                text = self.processor(
                    text=[prompt for _, prompt in part], tags=own_tags, level=level, return_tensors="pt"
                ).to(self.model.device)
                ids = self.model.generate(
                    image_features=features.select([numbers.index(n) for n, _ in part]),
                    **text,
                    num_beams=1,
                    do_sample=False,
                    max_new_tokens=_LONGEST_ANSWER,
                )
                texts = self.processor.batch_decode(ids, skip_special_tokens=True)
                answered += [
                    {"number": n, "prompt": prompt, "completion": said.strip(), "level": level, "tags": used}
                    for (n, prompt), said, used in zip(part, texts, own_tags)
                ]
            return [row for row in answered if row["completion"]]

        captions = answer([(n, format_prompt("caption_short")) for n in numbers], "image_level")
        names = {n: phrases("", tags[n]) for n in numbers}
        names |= {row["number"]: phrases(row["completion"], tags[row["number"]]) for row in captions}
        words = sorted({word for n in numbers for word in (*tags[n], *(name.split()[-1] for name in names[n]))})
        asked: dict[str, list[tuple[int, str]]] = {level: [] for level in LEVELS}
        for n in numbers:
            drawn = questions(names[n], tags[n], words, random.Random(f"{self.seed}/{n}"), self.trained)
            possible = (prompt for prompt in drawn if self.finds_boxes or infer_level(prompt) == "image_level")
            for prompt in itertools.islice(possible, self.per_image):
                asked[infer_level(prompt)].append((n, prompt))
        found = [row for level, prompts in asked.items() for row in answer(prompts, level)]
        boxes = {(row["number"], row["completion"]) for row in found if parse_boxes(row["completion"])}
        if self.finds_boxes:
            described = [(n, format_prompt("reg", box=box)) for n, box in sorted(boxes)]
            found += answer([asked for asked in described if asked[1] not in self.trained], "region_level")
        by_image: dict[int, list[dict[str, Any]]] = {n: [] for n in numbers}
        for row in found:
            by_image[row.pop("number")].append(row)
        yield from by_image.items()


def _open(image: Any) -> Any:
    try:
        return load_image(image)
    except (OSError, ValueError) as error:
        logger.debug("No rehearsal about an image: %s", error)
        return None
