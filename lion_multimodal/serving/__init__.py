"""
An HTTP server that speaks OpenAI's chat completions: questions of both levels in one batch, limits, metrics, and a
graceful stop. `lion serve` runs it.
"""

from lion_multimodal.serving.app import create_app
from lion_multimodal.serving.server import serve
from lion_multimodal.serving.service import Service
from lion_multimodal.serving.settings import ServerSettings


__all__ = ["ServerSettings", "Service", "create_app", "serve"]
