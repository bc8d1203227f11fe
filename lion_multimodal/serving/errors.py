"""Errors as OpenAI's interface tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class APIError(Exception):
    """
    What a request is answered with in place of an answer.

    Args:
        status (`int`): HTTP status.
        message (`str`): For people.
        code (`str`, *optional*): For programs.
        param (`str`, *optional*): The field of the request that is at fault.
        retry_after (`int`, *optional*): Seconds after which another try may help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    @property
    def type(self) -> str:
        """OpenAI's name for errors of this status."""
        if self.status == 429:
            return "rate_limit_error"
        if self.status >= 500:
            return "server_error"
        return "authentication_error" if self.status == 401 else "invalid_request_error"

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers of the answer beside its content's."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return {**headers, "WWW-Authenticate": "Bearer"} if self.status == 401 else headers


def shutting_down() -> APIError:
    """The answer to requests that come, or are not finished, when the server stops."""
    return APIError(503, "The server is shutting down.", code="shutting_down", retry_after=5)


def invalid_request(errors: Sequence[Mapping[str, Any]]) -> APIError:
    """What pydantic found wrong with a request: the first thing of it."""
    error = errors[0]
    if error["type"] == "json_invalid":
        return APIError(400, f"The body must be JSON: {error['ctx']['error']}.", code="invalid_json")
    path = ""
    for step in error["loc"]:
        if isinstance(step, int):
            path += f"[{step}]"
        elif step != "body" and not step.startswith("<"):  # these are pydantic's: names of a union's members
            path += f".{step}" if path else step
    if not path:
        return APIError(400, "The body must be a JSON object, of the content type application/json.")
    message = error["msg"].removeprefix("Value error, ")
    return APIError(400, f"`{path}` is not valid: {message[0].lower()}{message[1:]}.", param=path)
