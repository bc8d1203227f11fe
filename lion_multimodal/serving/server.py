"""The process: a socket, signals, and an end without losses."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from fastapi import FastAPI

from lion_multimodal.serving.service import Service


logger = logging.getLogger(__name__)

# Seconds that an idle connection stays open: longer than common clients keep theirs, so that these close first.
_KEEP_ALIVE = 75
# Seconds that answers may take to leave, once all are made.
_FLUSH = 5


def bind(host: str, port: int) -> socket.socket:
    """
    A socket at an address, before the model is loaded in vain.

    Args:
        host (`str`): Name or address.
        port (`int`): 0 for any that is free.

    Raises:
        OSError: the address cannot be had; names it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        raise OSError(f"cannot listen on --host {host} --port {port}: {error}") from error
    return bound


def address_of(bound: socket.socket) -> str:
    """The URL of a socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """
    Uvicorn, which on SIGTERM or SIGINT refuses new requests with 503, answers those that it has taken, and only then
    closes. A second SIGINT ends it at once.

    Args:
        config (`uvicorn.Config`): Its configuration.
        service ([`Service`]): What answers.
        on_ready (`Callable[[], None]`, *optional*): Called when requests are taken.
    """

    def __init__(self, config: uvicorn.Config, service: Service, on_ready: Callable[[], None] | None = None):
        super().__init__(config)
        self._service, self._on_ready = service, on_ready
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Task[None] | None = None
        self.lost = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.started and self._on_ready is not None:
            self._on_ready()

    def handle_exit(self, sig: int, frame: Any) -> None:
        """On a signal: begin to stop."""
        if self._loop is None:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self.stop, sig == signal.SIGINT)

    def stop(self, impatient: bool = False) -> None:
        """Begin to stop, in the event loop's thread; at once, where that has begun and the caller is impatient."""
        if self._stop is None:
            self._stop = asyncio.ensure_future(self._finish())
        elif impatient:
            self.should_exit = self.force_exit = True

    async def _finish(self) -> None:
        timeout = self._service.settings.shutdown_timeout
        logger.info("stopping: %d requests are unfinished", self._service.unfinished)
        self.lost = await self._service.finish(timeout)
        self._service.abort()
        self.should_exit = True


def serve(
    app: FastAPI, bound: socket.socket, on_ready: Callable[[], None] | None = None, access_log: bool = False
) -> int:
    """
    Serve until SIGTERM or SIGINT.

    Args:
        app (`FastAPI`): As [`create_app`] makes it.
        bound (`socket.socket`): Where to listen.
        on_ready (`Callable[[], None]`, *optional*): Called when requests are taken.
        access_log (`bool`, *optional*, defaults to `False`): Whether each request is logged.

    Returns:
        `int`: How many accepted requests were not answered in time.
    """
    server = Server(make_config(app, access_log), app.state.service, on_ready)
    server.run(sockets=[bound])
    return server.lost


def make_config(app: FastAPI, access_log: bool = False) -> uvicorn.Config:
    """Uvicorn's configuration."""
    return uvicorn.Config(
        app,
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=access_log,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_FLUSH,
    )
