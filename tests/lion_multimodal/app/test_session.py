"""What stands behind the page, without a page: one image, its tags, many questions."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from lion_multimodal import checkpoints
from lion_multimodal.app import rendering, session
from lion_multimodal.app.session import PageError
from lion_multimodal.engine import LionEngine


ANCHOR = "In the image <image>, can you locate the anchor and let me know its coordinates?"


@pytest.fixture(scope="module")
def engine():
    return LionEngine.from_pretrained(device="cpu")


@pytest.fixture
def scene(tmp_path) -> Path:
    file = tmp_path / "scene.png"
    checkpoints.demo_scenes()[2].image.save(file)
    return file


def test_an_image_is_encoded_once_for_all_questions(engine, scene, monkeypatch):
    calls = {"vision": 0, "tagger": 0}

    def counting(name, function):
        def run(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return run

    monkeypatch.setattr(engine.model, "encode_images", counting("vision", engine.model.encode_images))
    monkeypatch.setattr(engine.tagger, "tag_pixel_values", counting("tagger", engine.tagger.tag_pixel_values))
    current = session.open_image(engine, scene)
    for prompt in ("How many suns are there?", ANCHOR):
        session.ask(engine, current, prompt)
    session.ask(engine, current, ANCHOR, "image_level", ["sun"])
    session.score(engine, current, "Is there a sun?", "auto", None, "yes\nno")
    assert calls == {"vision": 1, "tagger": 1}
    assert [exchange.prompt for exchange in current.exchanges] == ["How many suns are there?", ANCHOR, ANCHOR]
    assert [exchange.answer.level for exchange in current.exchanges] == ["image_level", "region_level", "image_level"]
    assert [exchange.forced for exchange in current.exchanges] == [False, False, True]


def test_a_wrong_tag_changes_the_answer_and_taking_it_out_brings_it_back(engine, scene):
    current = session.open_image(engine, scene)
    found = list(current.tags)
    right = session.ask(engine, current, ANCHOR, chosen=found)
    assert session.add_tags(current, " cup ") == ["cup"]
    wrong = session.ask(engine, current, ANCHOR, chosen=["cup", *found])
    assert wrong.tags == (*found, "cup")  # in the order in which they stand on the page
    assert (wrong.added, wrong.removed) == (("cup",), ())
    assert "cup]" in wrong.reads
    assert wrong.answer.boxes != right.answer.boxes
    again = session.ask(engine, current, ANCHOR, chosen=found)
    assert again.answer == right.answer
    none = session.ask(engine, current, ANCHOR, chosen=[])
    assert (none.tags, none.removed, none.answer.tags) == ((), tuple(found), None)
    assert none.reads == ANCHOR


def test_a_checkpoint_without_a_tagger_takes_the_tags_that_are_added(engine, scene, monkeypatch):
    monkeypatch.setattr(engine, "tagger", None)
    current = session.open_image(engine, scene)
    assert current.tags == []
    assert session.ask(engine, current, "How many suns are there?").reads == "How many suns are there?"
    session.add_tags(current, "sun, anchor")
    exchange = session.ask(engine, current, "How many suns are there?", chosen=["anchor", "sun"])
    assert (exchange.tags, exchange.added, exchange.removed) == (("sun", "anchor"), ("sun", "anchor"), ())


def test_boxes_are_drawn_where_they_are(engine, scene):
    current = session.open_image(engine, scene)
    exchange = session.ask(engine, current, ANCHOR)
    assert exchange.drawing.size == current.shown.size == (480, 480)
    drawn = ImageChops.difference(exchange.drawing, current.shown).getbbox()
    assert drawn == pytest.approx([edge * current.scale for edge in exchange.answer.boxes[0]], abs=4)


def test_large_images_are_shown_smaller_and_a_side_is_never_lost(engine, tmp_path):
    Image.new("RGB", (2000, 1)).save(tmp_path / "wide.png")
    current = session.open_image(engine, tmp_path / "wide.png")
    assert current.shown.size == (640, 1)
    assert current.image.size == (1, 2000)


def test_files_that_are_no_images_are_named_without_their_folder(engine, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.raises(PageError, match=r"^broken\.png holds no readable image") as error:
        session.open_image(engine, broken)
    assert str(tmp_path) not in str(error.value)
    whole = tmp_path / "whole.png"
    checkpoints.demo_scenes()[0].image.save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(PageError, match=r"^cut\.png holds no readable image"):
        session.open_image(engine, tmp_path / "cut.png")
    with pytest.raises(PageError, match=r"^there is no image file 'gone\.png'"):
        session.open_image(engine, tmp_path / "gone.png")


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(engine, tmp_path):
    Image.new("1", (9000, 8000)).save(tmp_path / "huge.png")
    with pytest.raises(PageError, match="huge.png has 9000 × 8000 pixels; this page takes up to 64 megapixels"):
        session.open_image(engine, tmp_path / "huge.png")


def test_a_file_is_read_as_a_file_whatever_it_is_called(engine, tmp_path, monkeypatch):
    """A name from a visitor is never taken for an address."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PageError, match="there is no image file"):
        session.open_image(engine, Path("http://127.0.0.1:9/x.png"))


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("  ", "Type a question first."),
        ("x" * 1001, "A question can have up to 1000 characters, this one has 1001."),
    ],
)
def test_questions_that_cannot_be_asked(engine, scene, prompt, message):
    current = session.open_image(engine, scene)
    with pytest.raises(PageError, match=f"^{message}$"):
        session.ask(engine, current, prompt)
    assert current.exchanges == []
    with pytest.raises(PageError, match="Choose an image first"):
        session.ask(engine, None, "What is it?")


def test_candidates_come_the_likeliest_first_with_shares_that_add_up(engine, scene):
    current = session.open_image(engine, scene)
    scored = session.score(
        engine, current, "Question: How many suns are there? Short answer:", "auto", None, "1\n2\n\n3\n2"
    )
    assert [candidate.text for candidate in scored][0] == "2"
    assert len(scored) == 3
    assert sum(candidate.share for candidate in scored) == pytest.approx(1)
    assert scored == sorted(scored, key=lambda candidate: -candidate.share)
    for wrong in ("", "yes", "yes\nyes"):
        with pytest.raises(PageError, match="two candidate answers or more"):
            session.score(engine, current, "Is it?", "auto", None, wrong)
    with pytest.raises(PageError, match="up to 20 candidates"):
        session.score(engine, current, "Is it?", "auto", None, "\n".join(map(str, range(21))))


def test_early_exchanges_are_forgotten_not_the_image(engine, scene, monkeypatch):
    monkeypatch.setattr(session, "KEPT", 2)
    current = session.open_image(engine, scene)
    for prompt in ("What?", "How many?", "Where is the sun?"):
        session.ask(engine, current, prompt)
    assert [exchange.prompt for exchange in current.exchanges] == ["How many?", "Where is the sun?"]


@settings(max_examples=50)
@given(st.text(max_size=80), st.lists(st.text(max_size=8), max_size=4))
def test_added_tags_are_kept_once_and_without_commas(text, before):
    tags = list(dict.fromkeys(before))
    current = SimpleNamespace(tags=list(tags))
    try:
        names = session.add_tags(current, text)
    except PageError:
        assert current.tags == tags
        return
    assert names
    assert current.tags[: len(tags)] == tags
    assert len(set(current.tags)) == len(current.tags)
    assert set(names) <= set(current.tags)
    assert all("," not in name and name == " ".join(name.split()) for name in names)


def test_what_people_and_models_say_is_shown_as_text(engine, scene):
    current = session.open_image(engine, scene)
    session.add_tags(current, "<b>bold</b>")
    exchange = session.ask(engine, current, "<script>alert(1)</script> What is it?", chosen=["<b>bold</b>"])
    page = rendering.exchanges([exchange]) + rendering.message("<i>x</i>")
    page += rendering.candidates(session.score(engine, current, "Is it?", "auto", None, "<u>yes</u>\nno"))
    for tag in ("<script", "<b>", "<i>", "<u>"):
        assert tag not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert 'role="alert"' in page
    assert "image level, chosen automatically" in page
