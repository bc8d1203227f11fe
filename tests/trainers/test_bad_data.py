"""Data that cannot be trained on: a clear error instead of a checkpoint in which nothing changed."""

import http.server
import json
import threading

import datasets
import pytest
import torch

from tests.trainers.conftest import make_image, make_rows, tiny_model
from tests.trainers.test_sft_trainer import make_trainer
from trainers.collator import LionDataCollator
from trainers.datasets_lion import build_dataset
from trainers.recipe import SourceRecipe
from trainers.rows import BadRows, TooManyBadRowsError, find_column_problem
from trainers.sft_config import LionSFTConfig
from trainers.sft_trainer import LionSFTTrainer


IMAGES = datasets.Features({"image": datasets.Image()})["image"]


def chat(question, answer, parts=False):
    content = [{"type": "image", "text": None}, {"type": "text", "text": question}] if parts else question
    return [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]


def vision_rows(parts: bool, turns: int = 1) -> datasets.Dataset:
    """TRL's own format for images: a list of images, and messages."""
    rows = make_rows(4)
    messages = [[m for t in range(turns) for m in chat(r["prompt"] + " cat" * t, r["completion"], parts)] for r in rows]
    if parts:
        for conversation in messages:
            for message in conversation:
                if isinstance(message["content"], str):
                    message["content"] = [{"type": "text", "text": message["content"]}]
    table = datasets.Dataset.from_dict({"images": [[r["image"]] for r in rows], "messages": messages})
    return table.cast_column("images", datasets.List(datasets.Image()))


@pytest.mark.parametrize("parts", [False, True])
def test_trls_vision_format_is_trained_on(tmp_path, processor, parts):
    """The same as the same rows in columns of their own."""
    expected = LionDataCollator(processor)([{**r, "tags": None, "level": None} for r in make_rows(4)])
    batch = LionDataCollator(processor)(list(vision_rows(parts)))
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name

    trainer = make_trainer(tmp_path, processor, rows=vision_rows(parts), max_steps=2)
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    assert any(not torch.equal(p, before[n]) for n, p in trainer.model.named_parameters())
    assert trainer.bad_rows.summary() == {}


def test_prompt_and_completion_as_messages(processor):
    row = make_rows(1)[0]
    message, answer = chat(row["prompt"], row["completion"])
    conversational = {"images": [row["image"]], "prompt": [message], "completion": [answer]}
    plain = {"image": row["image"], "prompt": row["prompt"], "completion": row["completion"]}
    collator = LionDataCollator(processor)
    expected, batch = collator([plain]), collator([conversational])
    assert torch.equal(batch["labels"], expected["labels"])
    assert torch.equal(batch["input_ids"], expected["input_ids"])


def test_an_image_inside_a_message_and_a_placeholder_before_the_text(processor):
    content = [{"type": "image", "image": make_image(3)}, {"type": "text", "text": "what is this?"}]
    inside = {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "a cat"}]}
    outside = {"image": make_image(3), "messages": chat("<image>\nwhat is this?", "a cat")}
    collator = LionDataCollator(processor)
    expected, batch = collator([outside]), collator([inside])
    for name, value in expected.items():
        assert torch.equal(batch[name], value), name
    assert (batch["labels"] != -100).any()


@pytest.mark.parametrize("streaming", [False, True])
def test_every_exchange_of_a_conversation_is_a_row(tmp_path, processor, streaming):
    rows = vision_rows(parts=False, turns=3)
    trainer = make_trainer(tmp_path, processor, rows=rows.to_iterable_dataset() if streaming else rows, max_steps=1)
    prepared = list(trainer.train_dataset)
    assert [row["turn"] for row in prepared] == [0, 1, 2] * 4
    batch = LionDataCollator(processor)(prepared[:3])
    texts = processor.batch_decode(batch["input_ids"], skip_special_tokens=True)
    assert [text.count("cat") for text in texts] == [0, 1, 2]


def test_messages_in_a_recipe(tmp_path):
    vision_rows(parts=True, turns=2).to_parquet(tmp_path / "chats.parquet")
    for streaming in (False, True):
        source = SourceRecipe(path=str(tmp_path / "chats.parquet"), streaming=streaming)
        rows = list(build_dataset([source], training=False))
        assert len(rows) == 8
        assert rows[1]["prompt"] == rows[0]["prompt"] + " cat"
        assert rows[1]["completion"] == [make_rows(1)[0]["completion"]]


@pytest.mark.parametrize(
    "names", [["image", "text", "label"], ["image", "question", "answer"], ["prompt", "completion"], ["messagez"]]
)
def test_unknown_columns_are_named(tmp_path, processor, names):
    rows = datasets.Dataset.from_dict({name: ["x", "y"] for name in names})
    assert find_column_problem(names) is not None
    with pytest.raises(ValueError, match="`train_dataset` has") as error:
        make_trainer(tmp_path, processor, rows=rows)
    assert all(repr(name) in str(error.value) for name in names)
    assert "`prompt` and `completion`" in str(error.value)
    with pytest.raises(ValueError, match=r"`eval_dataset\['val'\]` has"):
        make_trainer(tmp_path, processor, eval_rows={"val": rows})


def garbage_rows(count=6) -> datasets.Dataset:
    rows = {"image": [{"bytes": b"?", "path": None}] * count, "prompt": ["what?"] * count, "completion": ["a"] * count}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image(decode=False))


def test_a_training_without_a_usable_row_ends_before_it_starts(tmp_path, processor):
    for number, rows in enumerate(
        (garbage_rows(), make_rows(3).remove_columns("image").add_column("image", ["no.png"] * 3))
    ):
        trainer = make_trainer(tmp_path / str(number), processor, rows=rows, max_steps=2, save_strategy="steps")
        with pytest.raises(TooManyBadRowsError, match="`train_dataset` has no usable row") as error:
            trainer.train()
        assert f"{len(rows)} × 'image cannot be read" in str(error.value)
        assert not list((tmp_path / str(number)).glob("checkpoint-*"))


def empty_answers() -> datasets.IterableDataset:
    return make_rows(4).map(lambda row: {"completion": " "}).to_iterable_dataset()


def test_streams_without_a_usable_row_end_with_an_error(tmp_path, processor):
    trainer = make_trainer(tmp_path / "a", processor, rows=empty_answers(), max_steps=2)
    with pytest.raises(TooManyBadRowsError, match="no usable row.*empty answer"):
        trainer.train()
    # A stream that is filtered before it gets here.
    source = SourceRecipe(builder="tests.trainers.test_bad_data:empty_answers", name="empty")
    record = BadRows(max_share=0.05)
    rows = build_dataset([source], bad_rows=record)
    with pytest.raises(TooManyBadRowsError, match="(no usable row|are unusable).*4 × 'has an empty answer'"):
        LionSFTTrainer(
            tiny_model(),
            LionSFTConfig(str(tmp_path / "b"), use_cpu=True, max_steps=2, own_streams=True),
            train_dataset=rows,
            processing_class=processor,
            bad_rows=record,
        )


def test_an_evaluation_without_a_usable_row_is_an_error(tmp_path, processor):
    trainer = make_trainer(tmp_path, processor, eval_rows=garbage_rows())
    with pytest.raises(TooManyBadRowsError, match="evaluation met no usable row"):
        trainer.evaluate()


def test_too_large_a_share_is_an_error_and_says_why():
    def meet(record, good, bad):
        for index in range(good + bad):
            if index < good:
                record.accept("rows")
            else:
                record.report("rows", index, f"image '{index}.png' does not exist")

    meet(BadRows(max_share=0.05), good=90, bad=9)  # too few rows to tell
    meet(BadRows(max_share=0.05), good=190, bad=10)
    meet(BadRows(), good=0, bad=1000)
    with pytest.raises(TooManyBadRowsError, match=r"11 of 201 rows of 'rows'.*0.05.*11 × 'image … does not exist'"):
        meet(BadRows(max_share=0.05), good=190, bad=11)
    with pytest.raises(ValueError, match="`max_share`"):
        BadRows(max_share=1.5)


def test_a_source_with_too_many_bad_rows_is_refused(tmp_path):
    rows = make_rows(120).map(lambda row, i: {"completion": "" if i % 10 == 0 else "a cat"}, with_indices=True)
    rows.to_parquet(tmp_path / "rows.parquet")
    source = SourceRecipe(path=str(tmp_path / "rows.parquet"))
    with pytest.raises(TooManyBadRowsError, match="12 of 120 rows of 'rows'"):
        build_dataset([source], bad_rows=BadRows(max_share=0.05))
    assert len(build_dataset([source], bad_rows=BadRows(max_share=0.1))) == 108


@pytest.mark.parametrize("column", ["prompt", "completion", "tags"])
def test_a_lone_surrogate_is_one_bad_row(processor, column):
    rows = [{**row, "index": index} for index, row in enumerate(make_rows(3))]
    rows[1][column] = "cut in half \ud83d"
    collator = LionDataCollator(processor)
    batch = collator(rows)
    assert collator.bad_rows.summary() == {"rows": 1}
    assert (batch["labels"] != -100).any(dim=1).tolist() == [True, False, True]
    assert "U+D83D" in collator.bad_rows.reasons()


def test_a_file_with_lines_that_no_dataset_can_hold(tmp_path):
    make_image(0).save(tmp_path / "a.png")
    row = {"image": str(tmp_path / "a.png"), "prompt": "what?", "completion": "a cat"}
    lines = [json.dumps(row), json.dumps({**row, "prompt": "half \ud83d"}), json.dumps(row)[:-9], json.dumps(row)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    record = BadRows(path=tmp_path / "bad.jsonl")
    rows = build_dataset([SourceRecipe(path=str(tmp_path / "rows.jsonl"))], bad_rows=record)
    assert rows["index"] == [0, 3]
    problems = [json.loads(line) for line in record.path.read_text().splitlines()]
    assert [p["index"] for p in problems] == [1, 2]
    assert "U+D83D" in problems[0]["problem"]
    assert "no JSON record" in problems[1]["problem"]


@pytest.mark.parametrize("value", [5, {"a": 1}, float("nan"), b"\xff", [["x"]]])
def test_whatever_is_bad_in_a_row_it_is_one_row(processor, value):
    rows = [{**row, "index": index} for index, row in enumerate(make_rows(3))]
    rows[1] |= {"image": value, "tags": value, "level": value}
    collator = LionDataCollator(processor)
    batch = collator(rows)
    assert (batch["labels"] != -100).any(dim=1).tolist() == [True, False, True]
    assert collator.bad_rows.summary() == {"rows": 1}


class Swallowing(torch.nn.Module):
    """A wrapper with an argument of the model's name, as PEFT's for sequence-to-sequence models has `task_ids`."""

    def __init__(self, model, name):
        super().__init__()
        self.model, self.name = model, name

    def forward(self, **inputs):
        inputs.pop(self.name)
        return self.model(**inputs)


def test_what_the_collator_makes_has_to_reach_the_model(tmp_path, processor):
    trainer = make_trainer(tmp_path, processor)
    batch = trainer.data_collator(list(make_rows(2)))
    name = next(name for name in batch if name in ("task_ids", "level_ids"))
    with pytest.raises(RuntimeError, match=rf"\['{name}'\] of the collator's batch do not reach the model: Swallowing"):
        trainer.compute_loss(Swallowing(trainer.model, name), batch)
    assert trainer.compute_loss(trainer.model, batch).isfinite()


def test_the_model_of_a_stage_sees_the_same_after_reloading(tmp_path, processor):
    model = tiny_model(["region_level", "image_level"], dropout=0.0)
    trainer = make_trainer(tmp_path, processor, model, stage="stage1", max_steps=2, eval_rows=make_rows(4))
    trainer.train()
    trainer.save_model()
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.active_branches == ("qformer",)
    again = make_trainer(tmp_path / "again", processor, loaded, eval_rows=make_rows(4))
    assert again.evaluate()["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"], rel=1e-5)
    # The next stage sees what it needs; both branches are the default and are not named.
    make_trainer(tmp_path / "three", processor, loaded, stage="stage3")
    assert loaded.config.active_branches is None


def test_addresses_in_rows_are_told_and_private_ones_are_not_fetched(processor, caplog):
    asked = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            make_image(0).save(self.wfile, format="PNG")

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"HTTP://127.0.0.1:{server.server_port}/"
        rows = [{**row, "image": f"{address}{i}.png", "index": i} for i, row in enumerate(make_rows(3))]
        collator = LionDataCollator(processor)
        assert (collator(rows)["labels"] == -100).all()
        assert asked == []
        assert "not a public address" in collator.bad_rows.reasons()
        told = [r for r in caplog.records if "fetched from addresses" in r.getMessage()]
        assert len(told) == 1
        batch = LionDataCollator(processor, allow_private_addresses=True)(rows)
        assert (batch["labels"] != -100).any(dim=1).all()
        assert len(asked) == 3
    finally:
        server.shutdown()
