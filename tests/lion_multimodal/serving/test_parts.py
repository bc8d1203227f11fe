"""Batches, the cache of images and the pieces of streams, each by itself."""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lion_multimodal.engine import EncodedImage
from lion_multimodal.serving.batching import Batcher
from lion_multimodal.serving.images import ImageCache
from lion_multimodal.serving.streaming import PieceStreamer
from modeling_lion.modeling_lion import LionImageFeatures
from tests.lion_multimodal.serving.conftest import SCENE


@dataclass(eq=False)
class Item:
    key: str
    number: int
    submitted: float = 0.0


def run_batcher(work, process=None, max_size=3, max_wait=0.02):
    """What a batcher makes of the items that `work` hands in."""
    batches = []

    async def note(batch):
        batches.append([item.number for item in batch])
        if process is not None:
            await process(batch)

    async def main():
        batcher = Batcher(note, max_size, max_wait)
        task = asyncio.create_task(batcher.run())
        await work(batcher)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    return batches


def test_a_batch_is_full_or_has_waited():
    async def work(batcher):
        for number in range(7):
            batcher.submit(Item("a", number))
        await asyncio.sleep(0)
        await asyncio.sleep(0.005)
        assert len(batcher._groups["a"]) == 1  # the seventh waits for others
        await asyncio.sleep(0.1)

    assert run_batcher(work) == [[0, 1, 2], [3, 4, 5], [6]]


def test_what_differs_is_not_put_together_and_the_first_comes_first():
    async def work(batcher):
        for number, key in enumerate("abcab"):
            batcher.submit(Item(key, number))
        await asyncio.sleep(0.1)

    assert run_batcher(work) == [[0, 3], [1, 4], [2]]


def test_a_rare_kind_is_not_kept_waiting_by_a_frequent_one():
    async def work(batcher):
        async def flood():
            for number in range(100, 400):
                batcher.submit(Item("often", number))
                await asyncio.sleep(0.001)

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0.05)
        batcher.submit(Item("rare", 1))
        await flooding
        while batcher._groups:
            await asyncio.sleep(0.01)

    async def slowly(batch):
        await asyncio.sleep(0.005)

    batches = run_batcher(work, slowly)
    place = batches.index([1])
    assert sum(len(batch) for batch in batches) == 301
    assert place < len(batches) // 2


def test_what_is_taken_back_is_not_processed_and_errors_end_nothing(caplog):
    async def fail(batch):
        raise RuntimeError("broken")

    async def work(batcher):
        items = [Item("a", number) for number in range(3)]
        for item in items[:2]:
            batcher.submit(item)
        assert batcher.withdraw(items[0])
        assert not batcher.withdraw(items[0])
        assert not batcher.withdraw(Item("b", 9))
        await asyncio.sleep(0.06)
        assert not batcher.withdraw(items[1])
        batcher.submit(items[2])
        await asyncio.sleep(0.06)

    assert run_batcher(work, fail) == [[1], [2]]
    assert caplog.text.count("RuntimeError: broken") == 2


def encoded(size):
    return EncodedImage(LionImageFeatures(image_embeds=torch.zeros(1, size, dtype=torch.uint8)), None, (1, 1))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([b"a", b"b", b"c", b"d"]), st.booleans(), st.integers(1, 12))),
    st.integers(0, 20),
)
def test_the_cache_keeps_what_was_asked_for_last(calls, max_bytes):
    cache, model = ImageCache(max_bytes), OrderedDict()
    for put, key, tagged, size in calls:
        if put:
            cache.put(key, tagged, encoded(size))
            if size <= max_bytes:
                model.pop((key, tagged), None)
                while sum(model.values()) + size > max_bytes:
                    model.popitem(last=False)
                model[key, tagged] = size
        else:
            found = cache.get(key, tagged)
            wanted = next((k for k in [(key, True)] + [(key, False)] * (not tagged) if k in model), None)
            assert (found is None) == (wanted is None)
            if wanted:
                model.move_to_end(wanted)
                assert found.features.image_embeds.numel() == model[wanted]
        assert cache.size == sum(model.values()) <= max_bytes


def test_an_encoded_image_does_not_keep_its_whole_batch(engine):
    for image in engine.encode([engine.prepare(SCENE)] * 4):
        for tensor in image.features.values():
            assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


@settings(max_examples=150, deadline=None)
@given(ids=st.lists(st.lists(st.integers(2, 300), max_size=14), min_size=1, max_size=3), cleans=st.booleans())
def test_pieces_are_the_beginning_of_the_whole(engine, ids, cleans):
    tokenizer = engine.processor.tokenizer
    end, pieces = tokenizer.eos_token_id, [""] * len(ids)

    def emit(row, piece):
        assert piece
        pieces[row] += piece

    was = tokenizer.clean_up_tokenization_spaces
    tokenizer.clean_up_tokenization_spaces = cleans
    try:
        streamer = PieceStreamer(tokenizer, [end], emit, len(ids))
        streamer.put(torch.zeros(len(ids), 1, dtype=torch.long))
        for step in range(max(map(len, ids)) + 1):
            streamer.put(torch.tensor([row[step] if step < len(row) else end for row in ids]))
        streamer.end()
        wholes = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    finally:
        tokenizer.clean_up_tokenization_spaces = was
    for piece, whole in zip(pieces, wholes):
        assert whole.startswith(piece)
        # Nearly all of it is there before the end.
        assert len(whole) - len(piece) <= (40 if cleans else 25)


def test_apostrophes_that_close_up():
    class Tokenizer:
        clean_up_tokenization_spaces = True

        def decode(self, ids, skip_special_tokens):
            return (
                "".join(["I", " do", " n", "'t", " know", " ."][i] for i in ids)
                .replace(" n't", "n't")
                .replace(" .", ".")
            )

    pieces = []
    streamer = PieceStreamer(Tokenizer(), [99], lambda row, piece: pieces.append(piece), 1)
    for token in range(6):
        streamer.put(torch.tensor([token]))
    assert "I don't know.".startswith("".join(pieces))
    assert "".join(pieces) == "I don't"


def test_a_cache_without_room_keeps_nothing():
    cache = ImageCache(0)
    cache.put(b"a", True, encoded(1))
    assert cache.get(b"a", False) is None
    assert cache.size == 0
