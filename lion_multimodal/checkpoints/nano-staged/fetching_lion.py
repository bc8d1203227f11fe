"""Images from the web: what an address gives, within limits of time, size and place."""

import functools
import http.client
import ipaddress
import os
import queue
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any


TIMEOUT = 30.0
MAX_BYTES = 64 * 2**20
ALLOW_PRIVATE_ADDRESSES = "LION_ALLOW_PRIVATE_ADDRESSES"

_CHUNK = 2**16
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class PrivateAddressError(OSError):
    """An address that only machines of the same network can reach, where that was not allowed."""


def fetch_url(
    url: str,
    *,
    timeout: float = TIMEOUT,
    max_bytes: int = MAX_BYTES,
    allow_private_addresses: bool | None = None,
) -> bytes:
    """
    Fetches what an `http(s):` URL gives.

    URLs that stand in data are not to be trusted: one may point into the network of the machine that reads it, never
    end, or never begin. So the limits hold for the whole of a fetch, redirects included, and it is the address that a
    connection is made to that is judged, not the name that leads there. Where the environment names a proxy
    (`HTTP_PROXY`, `HTTPS_PROXY`), that is connected to wherever it is, and a host's addresses are judged as far as
    they are known here.

    Args:
        url (`str`): The URL.
        timeout (`float`, *optional*, defaults to 30.0): Seconds that all of it may take.
        max_bytes (`int`, *optional*, defaults to 64 MiB): The most bytes to read.
        allow_private_addresses (`bool`, *optional*):
            Whether addresses may be read that are not public: loopback, private and link-local ones. By default, they
            are refused unless the environment variable `LION_ALLOW_PRIVATE_ADDRESSES` is 1.

    Raises:
        ValueError: The URL is malformed.
        OSError: It could not be fetched, leads to a private address ([`PrivateAddressError`]), takes too long
            (`TimeoutError`), or gives too much.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < float("inf"):
        raise ValueError(f"`timeout` must be a positive number of seconds, got {timeout!r:.100}")
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 1:
        raise ValueError(f"`max_bytes` must be a positive integer, got {max_bytes!r:.100}")
    if allow_private_addresses is None:
        allow_private_addresses = os.environ.get(ALLOW_PRIVATE_ADDRESSES, "").lower() in ("1", "true", "yes", "on")
    deadline = _Deadline(timeout)
    try:
        # Some hosts refuse requests that name no agent of their own.
        quoted = urllib.parse.quote(url, safe="%/:=&?~#+!$,;'@()*[]")
        request = urllib.request.Request(quoted, headers={"User-Agent": "lion-image-loader"})
        with _opener(deadline, allow_private_addresses).open(request, timeout=timeout) as response:
            return _read(response, max_bytes)
    except PrivateAddressError:
        raise
    except urllib.error.HTTPError as error:
        error.close()
        raise OSError(f"HTTP status {error.code} {error.reason}".rstrip()) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, PrivateAddressError):
            raise error.reason from None
        if isinstance(error.reason, TimeoutError):
            raise TimeoutError(f"it took more than {timeout:g} seconds") from error
        raise OSError(str(error.reason)) from error
    except TimeoutError as error:
        raise TimeoutError(f"it took more than {timeout:g} seconds") from error
    except http.client.InvalidURL as error:
        raise ValueError(f"it is not a valid URL: {error}") from error
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    except ValueError as error:
        raise ValueError(f"it is not a valid URL: {error}") from error


def _read(response: Any, max_bytes: int) -> bytes:
    announced = response.headers.get("Content-Length", "")
    if announced.isdecimal() and len(announced) < 20 and int(announced) > max_bytes:
        raise OSError(f"it gives {announced} bytes, more than `max_bytes` ({max_bytes})")
    content = bytearray()
    while chunk := response.read(min(_CHUNK, max_bytes + 1 - len(content))):
        content += chunk
        if len(content) > max_bytes:
            raise OSError(f"it gives more than `max_bytes` ({max_bytes}) bytes")
    chunked = "Transfer-Encoding" in response.headers
    if announced.isdecimal() and not chunked and len(content) < int(announced):
        raise OSError(f"it ended after {len(content)} of {announced} bytes")
    return bytes(content)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet; IPv6 addresses that hold an IPv4 one are judged by that."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        ip = inner or ip
    if isinstance(ip, ipaddress.IPv6Address) and ip not in _GLOBAL_UNICAST:
        return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


class _Deadline:
    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds that are left; `TimeoutError` where there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise TimeoutError("the deadline has passed")
        return seconds


def _resolve(host: str, port: int, deadline: _Deadline) -> list[tuple]:
    """`socket.getaddrinfo`, which knows no time-out, within the deadline."""
    results: queue.SimpleQueue = queue.SimpleQueue()

    def look_up() -> None:
        try:
            results.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            results.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        result = results.get(timeout=deadline.left())
    except queue.Empty:
        raise TimeoutError("the host's address was not found in time") from None
    if isinstance(result, UnicodeError):  # a label of the name is empty or too long
        raise OSError(f"the host {host!r} has no valid name")
    if isinstance(result, OSError):
        raise result
    return result


def _check_public(host: str, address: str) -> None:
    if not is_public(address):
        where = host if host == address else f"{host} ({address})"
        raise PrivateAddressError(
            f"{where} is not a public address; pass `allow_private_addresses=True`, or set "
            f"{ALLOW_PRIVATE_ADDRESSES}=1, where that is meant"
        )


class _Timed:
    """A socket each of whose reads and writes has what is left of a deadline."""

    deadline: _Deadline

    def recv_into(self, *args: Any, **kwargs: Any) -> int:
        self.settimeout(self.deadline.left())  # type: ignore[attr-defined]
        return super().recv_into(*args, **kwargs)  # type: ignore[misc]

    def sendall(self, *args: Any, **kwargs: Any) -> None:
        self.settimeout(self.deadline.left())  # type: ignore[attr-defined]
        super().sendall(*args, **kwargs)  # type: ignore[misc]


class _TimedSocket(_Timed, socket.socket):
    pass


class _TimedSSLSocket(_Timed, ssl.SSLSocket):
    pass


def _connect(host: str, port: int, deadline: _Deadline, only_public: bool) -> _TimedSocket:
    """A connection to the first of the host's addresses that answers, all of which must be allowed."""
    found = _resolve(host, port, deadline)
    if only_public:
        for *_, address in found:
            _check_public(host, address[0])
    problem: OSError = OSError(f"the host {host!r} has no address")
    for family, kind, protocol, _, address in found:
        connection = _TimedSocket(family, kind, protocol)
        connection.deadline = deadline
        try:
            connection.settimeout(deadline.left())
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            problem = error
    raise problem


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: Any, deadline: _Deadline, only_public: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._create_connection = self._open  # type: ignore[assignment]  # see `test_connections_are_opened_here`
        self._deadline, self._only_public = deadline, only_public

    def _open(self, address: tuple[str, int], *args: Any) -> _TimedSocket:
        return _connect(*address, self._deadline, self._only_public)


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, *args: Any, deadline: _Deadline, only_public: bool, **kwargs: Any) -> None:
        context = ssl.create_default_context()
        # The class of the sockets that it wraps; these get the deadline before the handshake.
        context.sslsocket_class = type("_BoundSSLSocket", (_TimedSSLSocket,), {"deadline": deadline})
        super().__init__(*args, context=context, **kwargs)
        self._create_connection = self._open  # type: ignore[assignment]
        self._deadline, self._only_public = deadline, only_public

    def _open(self, address: tuple[str, int], *args: Any) -> _TimedSocket:
        return _connect(*address, self._deadline, self._only_public)


class _Proxies(urllib.request.ProxyHandler):
    """The environment's proxies; remembers which requests go to one, and for which host."""

    def __init__(self) -> None:
        super().__init__()
        self._hosts: list[tuple[urllib.request.Request, str]] = []

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:  # type: ignore[override]
        if req.host and not urllib.request.proxy_bypass(req.host):
            self._hosts.append((req, req.host))
        return super().proxy_open(req, proxy, type)  # type: ignore[misc]

    def host_behind(self, request: urllib.request.Request) -> str | None:
        return next((host for other, host in self._hosts if other is request), None)


class _Handler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections by the rules of `fetch_url`."""

    def __init__(self, deadline: _Deadline, only_public: bool, proxies: _Proxies) -> None:
        super().__init__()
        self._deadline, self._only_public, self._proxies = deadline, only_public, proxies

    def http_open(self, req: urllib.request.Request) -> Any:
        return self._open(_Connection, req)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self._open(_SecureConnection, req)

    def _open(self, connection: Any, request: urllib.request.Request) -> Any:
        behind = self._proxies.host_behind(request)
        if behind is not None and self._only_public:
            host = urllib.parse.urlsplit(f"//{behind}").hostname or ""
            try:
                found = _resolve(host, 443, self._deadline)
            except TimeoutError:
                raise
            except OSError:  # a name that the proxy alone knows
                found = []
            for *_, address in found:
                _check_public(host, address[0])
        only_public = self._only_public and behind is None
        return self.do_open(functools.partial(connection, deadline=self._deadline, only_public=only_public), request)


def _opener(deadline: _Deadline, allow_private_addresses: bool) -> urllib.request.OpenerDirector:
    # No `build_opener`, whose opener would follow a redirect to ftp: as well.
    proxies = _Proxies()
    opener = urllib.request.OpenerDirector()
    for handler in (
        proxies,
        urllib.request.UnknownHandler(),
        _Handler(deadline, not allow_private_addresses, proxies),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener
