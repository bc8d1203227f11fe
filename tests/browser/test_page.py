"""The page in a real browser: what a visitor does, by mouse, on a phone, and with nothing but a keyboard."""

import json
import os
import re
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import TimeoutError

from lion_multimodal import checkpoints
from tests.browser.conftest import PHONE


ANCHOR = "In the image, can you locate the anchor and let me know its coordinates?"
QUESTION = "#question textarea"
NEW_TAG = "#new-tag textarea, #new-tag input"
# Where `make screenshots` wants the images of the documentation.
SCREENSHOTS = os.environ.get("LION_SCREENSHOTS")


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for number, scene in enumerate(checkpoints.demo_scenes()[:3]):
        scene.image.save(folder / f"scene_{number}.png")
    (folder / "broken.png").write_bytes(b"this is no image")
    Image.new("1", (9000, 8000)).save(folder / "huge.png")
    return folder


def upload(page, file: Path) -> None:
    page.set_input_files("#image input[type=file]", str(file))


def open_scene(page, files: Path, number: int = 2) -> None:
    upload(page, files / f"scene_{number}.png")
    page.wait_for_selector("#tags input")


def ask(page, question: str, before: int = 0) -> str:
    """Ask with the button; the text of the newest answer."""
    page.fill(QUESTION, question)
    page.click("#ask")
    page.wait_for_selector(f".exchange[data-number='{before + 1}']")
    return answer(page)


def answer(page) -> str:
    return page.locator(".exchange .answer").first.inner_text().strip()


def tag(page, name: str):
    return page.locator("#tags label", has_text=re.compile(f"^\\s*{name}\\s*$")).locator("input")


def screenshot(page, name: str, height: int) -> None:
    """An image of the page from its top."""
    if not SCREENSHOTS:
        return
    page.set_viewport_size({"width": page.viewport_size["width"], "height": height})
    page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
    page.mouse.move(0, 0)
    page.wait_for_timeout(600)
    file = Path(SCREENSHOTS, name)
    page.screenshot(path=str(file), animations="disabled")
    # This method leaves colours that are rare as they are.
    Image.open(file).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE).save(file, optimize=True)
    assert file.stat().st_size < 300_000


def is_red(pixel: tuple[int, ...]) -> bool:
    return pixel[0] > 180 and pixel[1] < 90 and pixel[2] < 130


def test_an_uploaded_image_is_asked_about_and_the_box_is_seen(visit, files, engine, monkeypatch, tmp_path):
    encoded = []
    encode = engine.model.encode_images
    monkeypatch.setattr(engine.model, "encode_images", lambda *args: (encoded.append(1), encode(*args))[1])
    page = visit()
    assert page.locator("#tags").count() == 0 or not page.locator("#tags").is_visible()
    open_scene(page, files)
    assert tag(page, "anchor").is_checked()
    assert ask(page, "Question: How many suns are there? Short answer:") == "2"
    assert "image level, chosen automatically" in page.locator(".exchange .level").first.inner_text()

    assert re.fullmatch(r"\[0\.6\d\d,0\.7\d\d,0\.9\d\d,1\.000\]", ask(page, ANCHOR, 1))
    assert "region level, chosen automatically" in page.locator(".exchange .level").first.inner_text()
    drawing = page.locator(".exchange .drawing")
    assert drawing.count() == 1
    drawing.screenshot(path=str(tmp_path / "drawing.png"))
    seen = Image.open(tmp_path / "drawing.png").convert("RGB")
    left = round(0.688 * seen.width)
    column = [is_red(seen.getpixel((x, round(0.87 * seen.height)))) for x in range(left - 5, left + 6)]
    assert any(column), "the box's left edge is not to be seen"

    page.locator("#level label", has_text="Image").locator("input").check()
    ask(page, ANCHOR, 2)
    assert "image level, chosen by you" in page.locator(".exchange .level").first.inner_text()
    assert page.locator(".exchange").count() == 3
    assert len(encoded) == 1


def test_a_wrong_tag_is_taken_out_and_prompt_and_answer_change(visit, files):
    page = visit()
    page.locator("#examples button").nth(2).click()
    page.wait_for_selector("#tags input")
    assert page.input_value(QUESTION) == ANCHOR
    page.fill(NEW_TAG, "cup")
    page.press(NEW_TAG, "Enter")
    tag(page, "cup").wait_for()
    assert tag(page, "cup").is_checked()
    assert page.input_value(NEW_TAG) == ""
    wrong = ask(page, ANCHOR)
    newest = page.locator(".exchange").first
    newest.locator("summary").click()
    assert newest.locator("code").inner_text().endswith(f"pink, black, cup]. {ANCHOR}")
    assert newest.locator("ins").inner_text() == "cup"

    tag(page, "cup").uncheck()
    right = ask(page, ANCHOR, 1)
    assert right != wrong
    assert right.startswith("[0.6")
    screenshot(page, "app.png", 1400)
    tag(page, "anchor").uncheck()
    ask(page, ANCHOR, 2)
    newest = page.locator(".exchange").first
    assert newest.locator("del").inner_text() == "anchor"
    newest.locator("summary").click()
    assert "anchor," not in newest.locator("code").inner_text()


def test_what_goes_wrong_is_said_on_the_page_and_the_page_goes_on(visit, files):
    page = visit()
    page.click("#ask")
    alert = page.locator("#message [role=alert]")
    alert.wait_for()
    assert alert.inner_text() == "Choose an image first."

    upload(page, files / "broken.png")
    page.locator("#message", has_text="broken.png holds no readable image").wait_for()
    assert "/" not in alert.inner_text()  # no folder of the server
    page.locator("#image button[aria-label*='emove'], #image button[aria-label*='lear']").first.click()
    alert.wait_for(state="detached")

    upload(page, files / "huge.png")
    page.locator("#message", has_text="9000 × 8000 pixels").wait_for()
    page.locator("#image button[aria-label*='emove'], #image button[aria-label*='lear']").first.click()
    alert.wait_for(state="detached")

    open_scene(page, files)
    page.fill(QUESTION, "   ")
    page.click("#ask")
    page.locator("#message", has_text="Type a question first.").wait_for()
    assert ask(page, "Question: How many suns are there? Short answer:") == "2"
    assert alert.count() == 0
    assert "Traceback" not in page.content()
    assert page.locator(".toast-body").count() == 0


def test_a_file_that_is_too_large_is_refused(visit, files, tmp_path):
    (tmp_path / "large.png").write_bytes(b"\0" * (32 * 2**20 + 1))
    page = visit()
    upload(page, tmp_path / "large.png")
    page.get_by_text(re.compile("exceeds|too large|maximum", re.IGNORECASE)).first.wait_for()
    assert "Traceback" not in page.content()


def test_visitors_do_not_see_each_other(visit, files):
    first, second = visit(), visit()
    open_scene(first, files, 2)
    open_scene(second, files, 0)
    first.fill(NEW_TAG, "castle")
    first.press(NEW_TAG, "Enter")
    tag(first, "castle").wait_for()
    assert ask(first, "Question: How many suns are there? Short answer:") == "2"
    assert ask(second, "Question: How many suns are there? Short answer:") == "0"
    assert second.locator(".exchange").count() == 1
    assert tag(second, "castle").count() == 0


def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit, files):
    page = visit(**PHONE)
    open_scene(page, files)
    page.fill(NEW_TAG, "a tag of a length that hardly anybody would type on purpose")
    page.press(NEW_TAG, "Enter")
    ask(page, ANCHOR)
    page.click("#compare button")
    page.fill("#candidates textarea", "yes\n" + "w" * 150)
    page.click("#score")
    page.wait_for_selector("#bars li")
    width = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    assert max(page.evaluate(width)) <= PHONE["width"]
    parts = "#ask, #question textarea, #tags label, .exchange, .drawing, #bars li"
    outside = """parts => [...document.querySelectorAll(parts)].filter(
        e => e.getBoundingClientRect().right > innerWidth || e.getBoundingClientRect().left < 0).length"""
    assert page.evaluate(outside, parts) == 0
    page.get_by_role("tab", name="Many images").click()
    page.set_input_files("#files input[type=file]", [str(files / "scene_0.png"), str(files / "broken.png")])
    page.locator("#files", has_text="broken").wait_for()
    page.click("#batch-start")
    page.locator("#batch-message", has_text="1 answered, 1 skipped").wait_for()
    assert max(page.evaluate(width)) <= PHONE["width"]


def test_a_phone_looks_like_this(visit, files):
    page = visit(**PHONE)
    page.locator("#examples button").nth(2).click()
    page.wait_for_selector("#tags input")
    ask(page, ANCHOR)
    assert page.locator(".drawing").bounding_box()["width"] <= PHONE["width"]
    screenshot(page, "app_phone.png", 1700)


def tab_to(page, selector: str) -> None:
    """Press Tab until the focus is in what the selector names."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("selector => !!document.activeElement.closest(selector)", selector):
            return
    raise AssertionError(f"the focus never comes to {selector}")


def opens_file_chooser(page) -> None:
    """Enter opens it; a page that is still being made may miss the first one."""
    for attempt in range(4):
        try:
            with page.expect_file_chooser(timeout=4_000):
                page.keyboard.press("Enter")
            return
        except TimeoutError:
            if attempt == 3:
                raise


def test_a_keyboard_is_enough(visit):
    page = visit()
    tab_to(page, "#image")
    opens_file_chooser(page)
    for _ in range(3):
        tab_to(page, "#examples button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#tags input")
    tab_to(page, "#tags")
    page.keyboard.press("Space")
    tab_to(page, "#new-tag")
    page.keyboard.type("cup")
    page.keyboard.press("Enter")
    tag(page, "cup").wait_for()
    tab_to(page, "#question")
    page.keyboard.press("Control+A")
    page.keyboard.type("Question: How many suns are there? Short answer:")
    page.keyboard.press("Enter")
    page.wait_for_selector(".exchange")
    assert page.locator(".exchange del").count() == 1
    assert page.locator(".exchange ins").inner_text() == "cup"
    for _ in range(2):  # each level is a stop of its own
        tab_to(page, "#level")
    page.keyboard.press("Space")
    tab_to(page, "#ask")
    page.keyboard.press("Enter")
    page.wait_for_selector(".exchange[data-number='2']")
    assert "chosen by you" in page.locator(".exchange .level").first.inner_text()
    tab_to(page, "#compare button")
    page.keyboard.press("Enter")
    tab_to(page, "#candidates")
    page.keyboard.type("1\n2")
    tab_to(page, "#score")
    page.keyboard.press("Enter")
    page.wait_for_selector("#bars li")
    for _ in range(2):  # past the address bar to the two tabs, of which the second is wanted
        tab_to(page, "[role=tab]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#batch-start:visible")


def test_candidates_are_shown_as_bars(visit, files):
    page = visit()
    open_scene(page, files)
    page.fill(QUESTION, "Question: How many suns are there? Short answer:")
    page.click("#compare button")
    page.fill("#candidates textarea", "1\n2\n3")
    page.click("#score")
    page.wait_for_selector("#bars li")
    assert page.locator("#bars .name").all_inner_texts()[0] == "2"
    widths = [bar.bounding_box()["width"] for bar in page.locator("#bars .bar").all()]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 2 * widths[1]
    shares = [float(text.split()[0]) for text in page.locator("#bars .share").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    page.fill("#candidates textarea", "1")
    page.click("#score")
    page.locator("#message", has_text="two candidate answers or more").wait_for()


def test_many_images_are_answered_into_a_table_to_download(visit, files):
    page = visit()
    page.get_by_role("tab", name="Many images").click()
    page.click("#batch-start")
    page.locator("#batch-message", has_text="Choose images or a folder first").wait_for()
    names = ["scene_0.png", "broken.png", "scene_2.png"]
    page.set_input_files("#files input[type=file]", [str(files / name) for name in names])
    page.locator("#files", has_text="scene_2").wait_for()
    page.fill("#batch-question textarea, #batch-question input", "Question: How many suns are there? Short answer:")
    page.click("#batch-start")
    page.locator("#batch-message", has_text="2 answered, 1 skipped: broken.png holds no readable image").wait_for()
    assert "scene_2.png" in page.locator("#table").inner_text()
    screenshot(page, "app_batch.png", 800)

    with page.expect_download() as waiting:
        page.click("#jsonl")
    records = [json.loads(line) for line in Path(waiting.value.path()).read_text(encoding="utf-8").splitlines()]
    assert waiting.value.suggested_filename == "answers.jsonl"
    assert [record["image"] for record in records] == names
    assert [record.get("answer") for record in records] == ["0", None, "2"]
    with page.expect_download() as waiting:
        page.click("#csv")
    lines = Path(waiting.value.path()).read_text(encoding="utf-8-sig").splitlines()
    assert lines[0] == "image,answer,boxes,level,tags,problem"
    assert len(lines) == 4


def test_a_folder_is_answered(visit, files, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("scene_0.png", "scene_1.png"):
        (tmp_path / "photos" / name).write_bytes((files / name).read_bytes())
    page = visit()
    page.get_by_role("tab", name="Many images").click()
    with page.expect_file_chooser() as waiting:
        page.click("#folder")
    waiting.value.set_files(str(tmp_path / "photos"))
    page.locator("#files", has_text="scene_1").wait_for()
    page.click("#batch-start")
    page.locator("#batch-message", has_text="2 answered.").wait_for()
