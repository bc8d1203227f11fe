"""What the web gives, within limits: tested against servers of this machine."""

import contextlib
import http.client
import os
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing_lion import fetching_lion
from processing_lion.fetching_lion import PrivateAddressError, fetch_url, is_public


class Handler(BaseHTTPRequestHandler):
    """Answers by the path: `/slow` a byte at a time, `/large` without end, `/to/URL` with a redirect."""

    seen: list = []

    def do_GET(self):
        Handler.seen.append(self.path)
        with contextlib.suppress(OSError):
            if self.path.startswith("/to/"):
                self.send_response(302)
                self.send_header("Location", self.path[4:])
                self.end_headers()
            elif self.path == "/slow":
                self.send_response(200)
                self.end_headers()
                for _ in range(300):
                    self.wfile.write(b"x")
                    self.wfile.flush()
                    time.sleep(0.05)
            elif self.path == "/slow-head":
                for byte in b"HTTP/1.0 200 OK\r\n" + b"X-Long: " + b"x" * 300:
                    self.wfile.write(bytes([byte]))
                    self.wfile.flush()
                    time.sleep(0.05)
            elif self.path == "/large":
                self.send_response(200)
                self.end_headers()
                for _ in range(1000):
                    self.wfile.write(b"x" * 100_000)
            elif self.path == "/announced":
                self.send_response(200)
                self.send_header("Content-Length", "400000000")
                self.end_headers()
            elif self.path == "/half":
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"half")
            elif self.path == "/missing":
                self.send_error(404)
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"content of " + self.path.encode())

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server}"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("LION_ALLOW_PRIVATE_ADDRESSES", raising=False)


def fetch(url, **kwargs):
    return fetch_url(url, **{"allow_private_addresses": True, **kwargs})


def test_content(url):
    assert fetch(url + "/a.png") == b"content of /a.png"
    assert fetch(url + "/to//b.png") == b"content of /b.png"
    assert fetch(url + "/ein Bär.png") == b"content of /ein%20B%C3%A4r.png"


@pytest.mark.parametrize("path", ["/slow", "/slow-head"])
def test_the_time_is_that_of_the_whole(url, path):
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="it took more than 0.5 seconds"):
        fetch(url + path, timeout=0.5)
    assert time.monotonic() - start < 2


def test_a_server_that_does_not_answer():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        for scheme in ("http", "https"):
            with pytest.raises(TimeoutError, match="it took more than 0.3 seconds"):
                fetch(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/", timeout=0.3)
        assert time.monotonic() - start < 3


def test_a_name_server_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="it took more than 0.3 seconds"):
        fetch("http://example.org/", timeout=0.3)
    assert time.monotonic() - start < 2


def test_the_bytes_are_counted(url):
    with pytest.raises(OSError, match=r"more than `max_bytes` \(1000\)"):
        fetch(url + "/large", max_bytes=1000)
    with pytest.raises(OSError, match="gives 400000000 bytes, more than `max_bytes`"):
        fetch(url + "/announced")
    assert fetch(url + "/abc", max_bytes=15) == b"content of /abc"
    with pytest.raises(OSError, match="max_bytes"):
        fetch(url + "/abc", max_bytes=14)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/missing", "HTTP status 404 Not Found"),
        ("/half", "ended after 4 of 100 bytes"),
        ("/to/ftp://127.0.0.1/a", "ftp"),
        ("/to/file:///etc/passwd", "not allowed"),
        ("/to//to//to//to//to//to//to//to//to//to//to//to//x", "redirect"),
    ],
)
def test_errors(url, path, message):
    with pytest.raises(OSError, match=message):
        fetch(url + path)


@pytest.mark.parametrize(
    "bad", ["http://", "http://[::1", "http://host:port/", "http:///x", "http://a\ud83d/", "http://user:pw@/"]
)
def test_malformed_urls_are_errors_of_a_line(bad):
    with pytest.raises((ValueError, OSError)) as caught:
        fetch(bad)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("timeout", 0),
        ("timeout", "1"),
        ("timeout", float("nan")),
        ("max_bytes", 0),
        ("max_bytes", 1.5),
        ("max_bytes", True),
    ],
)
def test_limits_are_checked(limit, value):
    with pytest.raises(ValueError, match=f"`{limit}` must be a positive"):
        fetch("http://127.0.0.1/", **{limit: value})


# --- Private addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "%31%32%37.0.0.1", "[::ffff:127.0.0.1]", "0.0.0.0"]
)
def test_private_addresses_are_refused_however_they_are_written(server, host):
    Handler.seen.clear()
    with pytest.raises(OSError, match="is not a public address|has no valid name|not known|Name or service"):
        fetch_url(f"http://{host}:{server}/secret")
    assert not Handler.seen


def test_private_addresses_are_read_where_that_is_allowed(url, monkeypatch):
    with pytest.raises(PrivateAddressError, match="allow_private_addresses=True"):
        fetch_url(url + "/a")
    assert fetch_url(url + "/a", allow_private_addresses=True)
    monkeypatch.setenv("LION_ALLOW_PRIVATE_ADDRESSES", "1")
    assert fetch_url(url + "/a")
    with pytest.raises(PrivateAddressError):
        fetch_url(url + "/a", allow_private_addresses=False)


def test_redirects_are_judged_as_well(server, monkeypatch):
    monkeypatch.setattr(fetching_lion, "is_public", lambda address: address == "127.0.0.2")
    public, private = f"http://127.0.0.2:{server}", f"http://127.0.0.1:{server}"
    assert fetch_url(f"{public}/to/{public}/a") == b"content of /a"
    Handler.seen.clear()
    with pytest.raises(PrivateAddressError, match="127.0.0.1 is not a public address"):
        fetch_url(f"{public}/to/{private}/secret")
    assert Handler.seen == [f"/to/{private}/secret"]


def test_the_address_that_was_judged_is_the_one_connected_to(server, monkeypatch):
    """A name server that answers differently the second time leads nowhere else."""
    answers = iter(["127.0.0.2", "127.0.0.1", "127.0.0.1"])

    def changing(host, port, *args, **kwargs):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    monkeypatch.setattr(socket, "getaddrinfo", changing)
    monkeypatch.setattr(fetching_lion, "is_public", lambda address: address == "127.0.0.2")
    assert fetch_url(f"http://changing.example:{server}/a") == b"content of /a"
    assert next(answers) == "127.0.0.1"  # asked once only


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("10.0.0.1", False),
        ("172.16.5.4", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::a00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:a00:1::", False),
    ],
)
def test_is_public(address, public):
    assert is_public(address) is public


@given(st.ip_addresses())
def test_is_public_takes_any_address(address):
    assert isinstance(is_public(str(address)), bool)


# --- Proxies and TLS ------------------------------------------------------------------------------------------------


class Proxy(BaseHTTPRequestHandler):
    seen: list = []

    def do_GET(self):
        Proxy.seen.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from the proxy")

    def log_message(self, *args):
        pass


@pytest.fixture
def proxy(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    Proxy.seen.clear()
    yield
    server.shutdown()
    server.server_close()


def test_a_proxy_may_be_private_but_not_what_lies_behind_it(proxy):
    assert fetch_url("http://8.8.8.8/a.png") == b"from the proxy"
    assert fetch_url("http://only-the-proxy-knows.invalid/a.png") == b"from the proxy"
    for host in ("127.0.0.1", "%31%32%37.0.0.1", "localhost:80", "10.0.0.1"):
        with pytest.raises(PrivateAddressError):
            fetch_url(f"http://{host}/secret")
    assert Proxy.seen == ["http://8.8.8.8/a.png", "http://only-the-proxy-knows.invalid/a.png"]
    assert fetch_url("http://10.0.0.1/a.png", allow_private_addresses=True) == b"from the proxy"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost "
        f"-keyout {folder}/key.pem -out {folder}/cert.pem"
    )
    try:
        subprocess.run(command.split(), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs openssl")
    return folder


def test_https(certificate, monkeypatch):
    server = ThreadingHTTPServer(("", 0), Handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"https://localhost:{server.server_port}"
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch(url + "/a")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
        assert fetch(url + "/a") == b"content of /a"
        with pytest.raises(OSError, match="Hostname mismatch|doesn't match|not valid for|IP address mismatch"):
            fetch(url.replace("localhost", "127.0.0.1") + "/a")
        with pytest.raises(PrivateAddressError):
            fetch_url(url + "/a")
        start = time.monotonic()
        with pytest.raises(TimeoutError):
            fetch(url + "/slow", timeout=0.5)
        assert time.monotonic() - start < 2
    finally:
        server.shutdown()
        server.server_close()


def test_connections_are_opened_here(url):
    """`_create_connection` is a private name of the standard library's; without it, limits would fail to hold."""
    assert "_create_connection" in vars(http.client.HTTPConnection("localhost"))
    with pytest.raises(PrivateAddressError):
        fetch_url(url)
    assert hasattr(urllib.request.ProxyHandler, "proxy_open")
