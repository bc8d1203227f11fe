"""The HTTP side of the server."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lion_multimodal import __version__
from lion_multimodal.engine import Answer, LionEngine
from lion_multimodal.serving.errors import APIError, invalid_request, shutting_down
from lion_multimodal.serving.protocol import ChatRequest, Chunks, completion
from lion_multimodal.serving.service import Service
from lion_multimodal.serving.settings import ServerSettings


logger = logging.getLogger(__name__)

CHAT = "/v1/chat/completions"
_ENDPOINTS = (CHAT, "/v1/models", "/health", "/health/live", "/health/ready", "/metrics")
_CLIENT_GONE = 499
# How long, and how many times a body's limit, a refused request is listened to, so that its client reads the answer.
_PATIENCE, _OVER = 5.0, 4


def create_app(engine: LionEngine, settings: ServerSettings | None = None) -> FastAPI:
    """
    The server as an ASGI application.

    Args:
        engine ([`LionEngine`]): What answers.
        settings ([`ServerSettings`], *optional*): Limits.

    Returns:
        `fastapi.FastAPI`: whose `state.service` is the [`Service`] behind it.
    """
    service = Service(engine, settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(title="LION", version=__version__, lifespan=lifespan, redoc_url=None)
    app.state.service = service
    app.add_middleware(Gate, service=service)
    name_of_model = service.settings.model_name
    model = {"id": name_of_model, "object": "model", "created": int(time.time()), "owned_by": "lion"}

    def check_model(name: str | None) -> None:
        if name not in (None, name_of_model):
            message = f"The model `{name}` does not exist; this server's is `{name_of_model}`."
            raise APIError(404, message, code="model_not_found", param="model")

    @app.post(CHAT)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Ask about an image."""
        check_model(body.model)
        if not body.stream:
            return JSONResponse(completion(await service.ask(body, request.state.ticket), name_of_model))
        answers = service.stream(body, request.state.ticket)
        # What can go wrong goes wrong before the first words, and is answered as an error.
        first = await anext(answers)
        events = _events(first, answers, Chunks(name_of_model, _wants_usage(body)))
        return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, Any]:
        """The one model, by its name."""
        check_model(name)
        return model

    @app.get("/health/live")
    async def live() -> dict[str, str]:
        """Whether the process works."""
        return {"status": "ok"}

    @app.get("/health")
    @app.get("/health/ready")
    async def ready() -> dict[str, str]:
        """Whether requests are taken."""
        if not service.is_ready:
            raise shutting_down()
        return {"status": "ok", "model": name_of_model}

    @app.get("/metrics")
    def metrics() -> Response:
        """Counters for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(APIError)
    async def on_api_error(request: Request, error: APIError) -> Response:
        return JSONResponse(error.body(), error.status, error.headers())

    @app.exception_handler(RequestValidationError)
    async def on_invalid_request(request: Request, error: RequestValidationError) -> Response:
        return await on_api_error(request, invalid_request(error.errors()))

    @app.exception_handler(HTTPException)
    async def on_http_error(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}."
        return await on_api_error(request, APIError(error.status_code, message))

    return app


def _wants_usage(body: ChatRequest) -> bool:
    return body.stream_options is not None and bool(body.stream_options.include_usage)


async def _events(first: str | Answer, answers: AsyncIterator[str | Answer], chunks: Chunks) -> AsyncIterator[str]:
    """Server-sent events of an answer's pieces."""
    try:
        yield _event(chunks.piece({"role": "assistant", "content": ""}))
        piece = first
        while isinstance(piece, str):
            yield _event(chunks.piece({"content": piece}))
            piece = await anext(answers)
        for chunk in chunks.last(piece):
            yield _event(chunk)
        yield "data: [DONE]\n\n"
    except APIError as error:
        yield _event(error.body())
    finally:
        await answers.aclose()  # type: ignore[attr-defined]


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


class _ClientGone(Exception):
    """There is nobody to answer."""


class _Reply:
    """What was sent of an answer."""

    def __init__(self, send: Send):
        self._send, self.status, self._is_stream = send, 0, False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._is_stream = any(value.startswith(b"text/event-stream") for _, value in message["headers"])
        await self._send(message)

    async def fail(self, error: APIError) -> None:
        """Send an error: in place of the answer, or at the end of what was sent of it."""
        if not self.status:
            content = json.dumps(error.body()).encode()
            headers = {"content-type": "application/json", "content-length": str(len(content)), **error.headers()}
            encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            await self.send({"type": "http.response.start", "status": error.status, "headers": encoded})
            await self._send({"type": "http.response.body", "body": content})
        elif self._is_stream:
            await self._send({"type": "http.response.body", "body": _event(error.body()).encode()})


class Gate:
    """
    What every request passes: keys, limits of size, time and number, and counters.

    Args:
        app: The application behind it.
        service ([`Service`]): What answers.
    """

    def __init__(self, app: ASGIApp, service: Service):
        self._app, self._service, self._settings = app, service, service.settings
        self._keys = [hashlib.sha256(key.encode()).digest() for key in self._settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        reply, started, status = _Reply(send), time.perf_counter(), None
        try:
            await self._serve(scope, receive, reply)
        except APIError as error:
            await reply.fail(error)
        except _ClientGone:
            status = _CLIENT_GONE
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            await reply.fail(APIError(500, "The server failed to answer this request; its log tells why."))
        finally:
            endpoint = scope["path"] if scope["path"] in _ENDPOINTS else "other"
            metrics = self._service.metrics
            metrics.requests.labels(endpoint, status or reply.status or _CLIENT_GONE).inc()
            metrics.request_seconds.labels(endpoint).observe(time.perf_counter() - started)

    async def _serve(self, scope: Scope, receive: Receive, reply: _Reply) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        try:
            if scope["path"].startswith("/v1/"):
                self._authorize(headers.get(b"authorization", ""))
            if scope["method"] != "POST" or scope["path"] != CHAT:
                return await self._app(scope, receive, reply.send)
            self._check_length(headers.get(b"content-length", ""))
            admission = self._service.admitted()
            ticket = admission.__enter__()
        except APIError:
            await self._discard(headers, receive)
            raise
        with contextlib.ExitStack() as stack:
            stack.push(admission)
            scope.setdefault("state", {})["ticket"] = ticket
            seconds = self._settings.request_timeout
            try:
                async with asyncio.timeout(seconds):
                    body = await self._read(receive, headers)
                    await _while_connected(self._app(scope, _replay(body), reply.send), receive)
            except TimeoutError:
                raise APIError(504, f"The request took more than {seconds:g} seconds.", code="timeout") from None

    def _authorize(self, header: str) -> None:
        if not self._keys:
            return
        scheme, _, key = header.partition(" ")
        given = hashlib.sha256(key.strip().encode("latin-1")).digest()
        fits = [hmac.compare_digest(given, known) for known in self._keys]
        if scheme.lower() != "bearer" or not any(fits):
            message = "The API key is wrong or missing; it belongs into the header `Authorization: Bearer KEY`."
            raise APIError(401, message, code="invalid_api_key")

    def _check_length(self, announced: str) -> None:
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > self._settings.max_request_bytes):
            limit = self._settings.max_request_bytes
            raise APIError(413, f"The request has more than {limit} bytes, this server's limit.", code="too_large")

    async def _read(self, receive: Receive, headers: dict[bytes, str]) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            body += message.get("body", b"")
            is_last = not message.get("more_body", False)
            if len(body) > self._settings.max_request_bytes:
                if not is_last:
                    await self._discard(headers, receive)
                self._check_length(str(len(body)))
            if is_last:
                return bytes(body)

    async def _discard(self, headers: dict[bytes, str], receive: Receive) -> None:
        """Read what is left of a refused request: many clients look for an answer only when all of theirs is sent."""
        if b"expect" in headers:  # these ask first
            return
        left = _OVER * self._settings.max_request_bytes
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        return


def _replay(body: bytes) -> Receive:
    """A body that was read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        return await asyncio.get_running_loop().create_future()  # the end is watched elsewhere

    return receive


async def _while_connected(work: Awaitable[None], receive: Receive) -> None:
    """Do something as long as the client is there."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    task, watch = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise _ClientGone
        await task
    finally:
        for other in (task, watch):
            other.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)
