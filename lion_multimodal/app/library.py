"""The library that the page is made with."""

from __future__ import annotations

import os
from typing import Any


# Nothing of a page is reported to anybody, and nothing of it is kept in the browser's storage.
_ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}


def import_gradio() -> Any:
    """
    Gradio, told to keep what happens on the page to itself.

    Raises:
        ImportError: the extra `app` is not installed.
    """
    from modeling_lion.extras_lion import needs_extra

    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with needs_extra("app", "lion app", "gradio"):
        import gradio
    return gradio
