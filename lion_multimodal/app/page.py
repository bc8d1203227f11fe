"""The page itself."""

from __future__ import annotations

import functools
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lion_multimodal import checkpoints
from lion_multimodal.app import batch, rendering, session
from lion_multimodal.app.library import import_gradio
from lion_multimodal.app.session import PageError, Session
from lion_multimodal.engine import LionEngine


gr = import_gradio()

logger = logging.getLogger(__name__)

MAX_FILE_BYTES = 32 * 2**20
SESSION_SECONDS = 3600
"""After that long without a question, an image is forgotten."""

_CLEANED_EVERY, _UPLOADS_KEPT = 1800, 2 * SESSION_SECONDS
_LEVELS = [("Auto", "auto"), ("Image", "image_level"), ("Region", "region_level")]
_EXAMPLES = 6

CSS = """
.gradio-container {max-width: 1120px !important; margin: 0 auto; padding: 0 !important; overflow-x: hidden}
.gradio-container > .main {padding: 16px !important}
.html-container, .html-container .prose {padding: 0 !important; margin: 0}
#heading h1 {font-size: 1.5rem; margin: 0 0 2px} #heading p {margin: 0; color: var(--body-text-color-subdued)}
#image img {width: 100%; height: 100%; object-fit: contain}
#examples .gallery {flex-wrap: wrap; gap: 6px} #examples .gallery-item {padding: 0}
#examples img, #examples .container {width: 52px !important; height: 52px !important; max-width: 52px; margin: 0}
#message:not(:has(.message)), #batch-message:not(:has(.message)), #bars:not(:has(ol)) {display: none}
.message {border-left: 4px solid; border-radius: 4px; padding: 8px 12px; margin: 0 !important; overflow-wrap: anywhere}
.message.error {border-color: #c62828; background: color-mix(in srgb, #c62828 12%, transparent)}
.message.info {border-color: var(--color-accent); background: var(--background-fill-secondary)}
.nothing {border: 1px dashed var(--border-color-primary); border-radius: 8px; padding: 24px 14px; text-align: center;
  color: var(--body-text-color-subdued); margin: 0 !important}
.exchange {border: 1px solid var(--border-color-primary); border-radius: 8px; padding: 12px 14px; margin: 0 0 12px}
.exchange .asked {font-size: 0.95rem; font-weight: 500; color: var(--body-text-color-subdued); margin: 0 0 4px}
.exchange .answer {font-size: 1.15rem; font-weight: 600; margin: 0 0 8px; overflow-wrap: anywhere}
.exchange .drawing {width: 100%; max-width: 260px; border-radius: 6px; margin: 0 0 8px; display: block}
.exchange .facts {font-size: 0.85rem; margin: 0 0 4px; color: var(--body-text-color-subdued); overflow-wrap: anywhere}
.exchange .level {background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary);
  border-radius: 12px; padding: 1px 9px; margin-right: 8px; color: var(--body-text-color); display: inline-block}
.exchange details {font-size: 0.85rem} .exchange summary {cursor: pointer; color: var(--body-text-color-subdued)}
.exchange code {white-space: pre-wrap; overflow-wrap: anywhere; display: block; margin-top: 4px}
#table td, #table th, #table span {font-family: var(--font)}
ol.candidates {list-style: none; margin: 0; padding: 0}
ol.candidates li {display: grid; grid-template-columns: 1fr auto; gap: 2px 10px; margin: 0 0 10px}
ol.candidates .name {font-weight: 600; overflow-wrap: anywhere}
ol.candidates .track {grid-column: 1 / -1; height: 10px; border-radius: 5px;
  background: var(--background-fill-secondary)}
ol.candidates .bar {display: block; height: 100%; border-radius: 5px; background: var(--color-accent); min-width: 2px}
ol.candidates .share {grid-row: 1; grid-column: 2; font-variant-numeric: tabular-nums}
ol.candidates .score {grid-column: 1 / -1; font-size: 0.8rem; color: var(--body-text-color-subdued)}
"""


def image_upload(**kwargs: Any) -> Any:
    """
    A `gradio.Image` whose file is handed on as it was sent, so that it is this package that reads it, and says what is
    wrong with it. (A class of its own would make Gradio write a file beside this one.)
    """
    image = gr.Image(type="filepath", **kwargs)
    image.preprocess = lambda payload: None if payload is None else payload.path
    return closed_to_addresses(image)


def closed_to_addresses(component: Any) -> Any:
    """
    The component, which takes files alone. Browsers send nothing else; but of a forged request, Gradio would fetch the
    public addresses that stand in it in place of files.
    """
    move = component.async_move_resource_to_block_cache

    async def move_file(path: Any) -> Any:
        if "://" in str(path):
            raise gr.Error("This page takes files, no addresses.", print_exception=False)
        return await move(path)

    component.async_move_resource_to_block_cache = move_file
    return component


def theme(gradio: Any) -> Any:
    """Colours, and the fonts of the visitor's own system: none are fetched."""
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    plain = gradio.themes.Default(primary_hue="blue", secondary_hue="blue", neutral_hue="slate", **fonts)
    # Gradio's own grey on white, and its white on blue, are too faint to be read easily.
    return plain.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_700",
    )


def build_page(engine: LionEngine) -> Any:
    """
    The page of a checkpoint; [`launch`] serves it.

    Args:
        engine ([`LionEngine`]): The checkpoint.

    Returns:
        `gradio.Blocks`: The page.
    """
    page = gr.Blocks(
        title="LION",
        analytics_enabled=False,
        delete_cache=(_CLEANED_EVERY, _UPLOADS_KEPT),
    )
    with page:
        gr.HTML(
            "<h1>LION</h1><p>Ask about an image, in words or for a place in it. The tags are what the tagger saw: "
            "correct them, and see what the answer makes of it.</p>",
            elem_id="heading",
        )
        with gr.Tabs():
            with gr.Tab("Ask", id="ask"):
                _ask_tab(engine)
            with gr.Tab("Many images", id="many"):
                _batch_tab(engine)
    return page


def _ask_tab(engine: LionEngine) -> None:
    state = gr.State(None, time_to_live=SESSION_SECONDS)
    # Which image the tags on the page are those of: a question that was sent too early does not take those of another.
    opened = gr.Textbox("", visible=False)
    scenes = checkpoints.demo_scenes()[:_EXAMPLES]
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            image = image_upload(
                label="Image",
                format="png",
                sources=["upload", "webcam", "clipboard"],
                height=320,
                elem_id="image",
            )
            examples = gr.Dataset(
                label="Examples",
                components=[gr.Image(visible=False, format="png")],
                samples=[[scene.image] for scene in scenes],
                sample_labels=None,
                type="index",
                samples_per_page=_EXAMPLES,
                elem_id="examples",
            )
            tags = gr.CheckboxGroup(
                [],
                label="Tags in the prompt",
                info="Untick what is not in the image.",
                elem_id="tags",
                visible=False,
            )
            new_tag = gr.Textbox(
                label="Add a tag",
                placeholder="Type a tag and press Enter",
                max_length=session.MAX_TAG * 4,
                elem_id="new-tag",
                visible=False,
            )
        with gr.Column(scale=6, min_width=300):
            prompt = gr.Textbox(
                label="Question",
                placeholder="What does the image show?  Where is the …?",
                lines=1,
                max_lines=4,
                max_length=session.MAX_PROMPT,
                elem_id="question",
            )
            level = gr.Radio(
                _LEVELS,
                value="auto",
                label="Level",
                info="Whether the question is about the whole image or a place in it.",
                elem_id="level",
            )
            ask = gr.Button("Ask", variant="primary", elem_id="ask")
            problem = gr.HTML("", elem_id="message", padding=False)
            with gr.Accordion("Compare candidate answers", open=False, elem_id="compare"):
                candidates = gr.Textbox(
                    label="Candidates, one a line", lines=3, placeholder="yes\nno", elem_id="candidates"
                )
                score = gr.Button("Score", elem_id="score")
                bars = gr.HTML("", elem_id="bars", padding=False)
            answers = gr.HTML(rendering.exchanges([]), elem_id="answers", padding=False)

    said = functools.partial(_saying, problem)

    @said
    def open_image(path: str | None) -> dict:
        cleared = {answers: rendering.exchanges([]), bars: "", problem: ""}
        if path is None:
            gone = gr.update(choices=[], value=[], visible=False)
            return {**cleared, state: None, opened: "", tags: gone, new_tag: gr.update(visible=False)}
        try:
            current = session.open_image(engine, Path(path))
        except PageError as error:
            gone = gr.update(choices=[], value=[], visible=False)
            hidden = {state: None, opened: "", tags: gone, new_tag: gr.update(visible=False)}
            return {**cleared, **hidden, problem: rendering.message(str(error))}
        info = "Untick what is not in the image." if engine.tagger else "This checkpoint has no tagger: add your own."
        found = gr.update(choices=current.tags, value=current.tags, info=info, visible=True)
        return {**cleared, state: current, opened: current.key, tags: found, new_tag: gr.update(visible=True)}

    @said
    def take_example(number: int) -> dict:
        scene = scenes[number]
        return {image: scene.image, prompt: scene.questions[-1]["prompt"].replace(" <image>", "")}

    @said
    def add_tag(current: Session | None, chosen: list[str], text: str) -> dict:
        if current is None:
            raise PageError("Choose an image first.")
        names = session.add_tags(current, text)
        kept = [tag for tag in current.tags if tag in chosen or tag in names]
        return {state: current, tags: gr.update(choices=current.tags, value=kept), new_tag: "", problem: ""}

    @said
    def ask_question(current: Session | None, key: str, chosen: list[str], text: str, wanted: str) -> dict:
        session.ask(engine, current, text, wanted, _own(current, key, chosen))
        assert current is not None
        return {state: current, answers: rendering.exchanges(current.exchanges), problem: ""}

    @said
    def score_candidates(
        current: Session | None, key: str, chosen: list[str], text: str, wanted: str, lines: str
    ) -> dict:
        scored = session.score(engine, current, text, wanted, _own(current, key, chosen), lines)
        return {bars: rendering.candidates(scored), problem: ""}

    # One after the other, in the order of arrival: a question that follows an image finds it open.
    turns: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
    asked = [state, opened, tags, prompt, level]
    image.change(
        open_image, [image], [state, opened, tags, new_tag, answers, bars, problem], show_progress="minimal", **turns
    )
    examples.click(take_example, [examples], [image, prompt, problem], api_visibility="private", show_progress="hidden")
    new_tag.submit(add_tag, [state, tags, new_tag], [state, tags, new_tag, problem], show_progress="hidden", **turns)
    gr.on(
        [ask.click, prompt.submit], ask_question, asked, [state, answers, problem], show_progress_on=[answers], **turns
    )
    score.click(score_candidates, [*asked, candidates], [bars, problem], show_progress_on=[bars], **turns)


def _batch_tab(engine: LionEngine) -> None:
    with gr.Row():
        with gr.Column(scale=5, min_width=300):
            files = closed_to_addresses(
                gr.File(label="Images", file_count="multiple", type="filepath", height=180, elem_id="files")
            )
            folder = closed_to_addresses(
                gr.UploadButton("Choose a folder", file_count="directory", size="sm", elem_id="folder")
            )
        with gr.Column(scale=6, min_width=300):
            prompt = gr.Textbox(
                label="Question about each",
                placeholder="Empty: a short caption",
                max_length=session.MAX_PROMPT,
                elem_id="batch-question",
            )
            level = gr.Radio(_LEVELS, value="auto", label="Level", elem_id="batch-level")
            with_tags = gr.Checkbox(True, label="Put the tagger's tags into the prompts", elem_id="batch-tags")
            start = gr.Button("Answer all", variant="primary", elem_id="batch-start")
    problem = gr.HTML("", elem_id="batch-message", padding=False)
    table = gr.Dataframe(
        headers=list(batch.SHOWN),
        datatype="str",
        interactive=False,
        wrap=True,
        show_label=False,
        max_height=480,
        column_widths=["17%", "35%", "18%", "12%", "18%"],
        visible=False,
        elem_id="table",
    )
    with gr.Row():
        as_csv = gr.DownloadButton("Download CSV", visible=False, size="sm", elem_id="csv")
        as_jsonl = gr.DownloadButton("Download JSON Lines", visible=False, size="sm", elem_id="jsonl")

    def answer_all(paths: list[str] | None, text: str, wanted: str, tagged: bool) -> Iterator[dict]:
        rows: list[batch.Row] = []
        hidden = {as_csv: gr.update(visible=False), as_jsonl: gr.update(visible=False)}
        try:
            sources = [Path(path) for path in paths or []]
            for some in batch.answer_files(engine, sources, text, wanted, tagged):
                rows += some
                state = rendering.message(f"{len(rows)} of {len(sources)} …", "info")
                yield {**hidden, problem: state, table: gr.update(value=[row.shown() for row in rows], visible=True)}
        except PageError as error:
            yield {**hidden, problem: rendering.message(str(error))}
            return
        except Exception:
            logger.exception("The page failed.")
            yield {**hidden, problem: rendering.message(_FAULT)}
            return
        # What is handed to Gradio is copied by it before this goes on.
        with tempfile.TemporaryDirectory() as place:
            csv_file, jsonl_file = Path(place, "answers.csv"), Path(place, "answers.jsonl")
            batch.write_csv(rows, csv_file)
            batch.write_jsonl(rows, jsonl_file)
            yield {
                problem: _summary(rows),
                as_csv: gr.update(value=str(csv_file), visible=True),
                as_jsonl: gr.update(value=str(jsonl_file), visible=True),
            }

    folder.upload(lambda found: found, [folder], [files], api_visibility="private", show_progress="hidden")
    start.click(
        answer_all,
        [files, prompt, level, with_tags],
        [table, as_csv, as_jsonl, problem],
        concurrency_id="batch",
        concurrency_limit=1,
        show_progress="minimal",
        show_progress_on=[problem],
        api_visibility="private",
    )


_FAULT = "Something went wrong on the server; its log says what."


def _saying(problem: Any, function: Callable[..., dict]) -> Callable[..., dict]:
    """The function, with a message on the page in place of an error."""

    @functools.wraps(function)
    def run(*args: Any) -> dict:
        try:
            return function(*args)
        except PageError as error:
            return {problem: rendering.message(str(error))}
        except Exception:
            logger.exception("The page failed.")
            return {problem: rendering.message(_FAULT)}

    return run


def _own(current: Session | None, key: str, chosen: list[str]) -> list[str] | None:
    """The chosen tags, if they are those of the current image."""
    return chosen if current is not None and current.key == key else None


def _summary(rows: Sequence[batch.Row]) -> str:
    skipped = [row for row in rows if row.problem]
    answered = f"{len(rows) - len(skipped)} answered"
    if not skipped:
        return rendering.message(f"{answered}.", "info")
    return rendering.message(f"{answered}, {len(skipped)} skipped: {'; '.join(row.problem for row in skipped[:5])}")
