"""The page, served."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lion_multimodal.app.library import import_gradio


if TYPE_CHECKING:
    import gradio

    from lion_multimodal.engine import LionEngine


QUEUE = 32
"""Requests that may wait; further ones are told that the page is busy."""
SESSIONS = 200
"""Visitors whose image is kept, each for an hour at most."""


def launch(
    model: str | os.PathLike | None = None,
    adapter: str | None = None,
    device: str | None = None,
    *,
    engine: LionEngine | None = None,
    host: str | None = None,
    port: int | None = None,
    share: bool = False,
    prevent_thread_lock: bool = False,
) -> tuple[gradio.Blocks, str, str | None]:
    """
    Load a checkpoint and serve its page until the process is interrupted.

    Args:
        model (`str` or `os.PathLike`, *optional*): Directory or Hub repo; the nano of this package by default.
        adapter (`str`, *optional*): A PEFT adapter on top of it.
        device (`str`, *optional*): Where to run; an accelerator by default, if there is one.
        engine ([`LionEngine`], *optional*): A loaded checkpoint in place of all these.
        host (`str`, *optional*): The address to listen at; the one that only this machine reaches by default, or what
            `GRADIO_SERVER_NAME` says, as a Space does.
        port (`int`, *optional*): The port; the first free one from 7860 by default.
        share (`bool`, *optional*, defaults to `False`): Whether to ask Gradio for a public address for a week.
        prevent_thread_lock (`bool`, *optional*, defaults to `False`): Whether to return while the page is served.

    Returns:
        The page, its local address, and its public one, or None.

    Raises:
        ImportError: the extra `app` is not installed.
        ValueError, OSError: the checkpoint cannot be loaded, or the port is taken.
    """
    gr = import_gradio()
    from lion_multimodal.app.page import CSS, MAX_FILE_BYTES, build_page, theme
    from lion_multimodal.engine import LionEngine

    engine = engine or LionEngine.from_pretrained(model, adapter=adapter, device=device)
    page = build_page(engine)
    page.queue(max_size=QUEUE, api_open=False)
    _, local, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=prevent_thread_lock,
        show_error=False,
        footer_links=[],
        enable_monitoring=False,
        state_session_capacity=SESSIONS,
        max_file_size=MAX_FILE_BYTES,
        allowed_paths=[],
        ssr_mode=False,
        pwa=False,
        theme=theme(gr),
        css=CSS,
    )
    return page, local, public
