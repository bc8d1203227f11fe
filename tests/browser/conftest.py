"""A page that is served by this process, and a browser to look at it with."""

import os
import shutil

import pytest


pytest.importorskip("gradio", reason="the extra `app` is not installed")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

# Chromium talks to nobody but the page.
ARGUMENTS = (
    "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync"
)
DESKTOP = {"width": 1180, "height": 860}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def engine():
    from lion_multimodal.engine import LionEngine

    return LionEngine.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def address(engine):
    from lion_multimodal.app import launch

    blocks, local, _ = launch(engine=engine, prevent_thread_lock=True)
    yield local
    blocks.close()


@pytest.fixture(scope="session")
def chromium():
    path = os.environ.get("LION_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Opens the page as a new visitor; at the end, nothing may have been asked of other hosts, nor gone wrong."""
    contexts, foreign, errors = [], [], []

    def note(request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            foreign.append(request.url)

    def open_page(**viewport):
        context = chromium.new_context(viewport=viewport or DESKTOP, accept_downloads=True, device_scale_factor=1)
        context.set_default_timeout(30_000)
        contexts.append(context)
        page = context.new_page()
        page.on("request", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#examples img")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert foreign == []
    assert errors == []
