"""Clients that mean no good, proxies that let everybody in, and a process that stands still: with a real line behind it."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import os
import re
import signal
import socket
import stat
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge_ad.web.access import COOKIE, HEADERS
from tests.fixtures.tiny_bundle import make_tiny_bundle
from tests.web.conftest import TOKEN
from tests.web.running import Answer, Line, ask, line, until
from tests.web.test_server import kill_dashboard

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.slow
DOCUMENTED = Path(__file__).parents[2] / "docs" / "dashboard.md"


def dashboard_pid(found: Line) -> int:
    """Return the process that serves, a child of the run."""
    # Every thread has its own children: the first process is one of the main thread, a later one of the feeding one.
    tasks = Path(f"/proc/{found.process.pid}/task").iterdir()
    children = [pid for task in tasks for pid in (task / "children").read_text().split()]
    (pid,) = [int(pid) for pid in children if b"edge_ad.web.serve" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def dressed(headers: dict[str, str]) -> bool:
    return all(headers.get(name.decode()) == value.decode() for name, value in HEADERS)


@contextlib.contextmanager
def half_sent(port: int, data: bytes, count: int) -> Iterator[list[socket.socket]]:
    """Hold so many connections open on which only ``data`` was sent."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)))
            with contextlib.suppress(OSError):  # it gave way already
                opened[-1].sendall(data)
        yield opened


HALF_SENT = {
    "silent": b"",
    "half a head": b"GET /api/state HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    "half a body": b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Edge-Ad: 1\r\nContent-Length: 100\r\n\r\nt",
}


def test_half_sent_requests_keep_nobody_from_health(guarded_line: Line) -> None:
    """All three at once, 120 connections of each: the server ends every one of them after the same time."""
    with contextlib.ExitStack() as stack:
        opened = {name: stack.enter_context(half_sent(guarded_line.port, data, 120)) for name, data in HALF_SENT.items()}
        for _ in range(3):
            assert guarded_line.ask("/healthz", token=None).status == 200
        assert guarded_line.ask("/api/state").status == 200
        for name, connections in opened.items():
            connections[-1].settimeout(60)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while piece := connections[-1].recv(4096):  # until the server ends it: a timeout fails the test
                    answer += piece
            assert b" 200 " not in answer, name


def test_a_dashboard_that_was_stopped_is_replaced(tmp_path: Path) -> None:
    with line(tmp_path, make_tiny_bundle(tmp_path / "tiny.edgead")) as found:
        first = dashboard_pid(found)
        os.kill(first, signal.SIGSTOP)
        try:
            until(lambda: any("did not answer and is started again" in text for text in found.said))
            until(lambda: ask(found.port, "/readyz").status == 200)
            assert dashboard_pid(found) != first
            assert not Path(f"/proc/{first}").exists()
        finally:
            with contextlib.suppress(OSError):
                os.kill(first, signal.SIGCONT)
        assert found.stop() == 0


def test_a_run_that_was_stopped_itself_keeps_its_dashboard(tmp_path: Path) -> None:
    with line(tmp_path, make_tiny_bundle(tmp_path / "tiny.edgead")) as found:
        first = dashboard_pid(found)
        os.kill(found.process.pid, signal.SIGSTOP)
        time.sleep(11)
        os.kill(found.process.pid, signal.SIGCONT)
        until(lambda: found.ask("/healthz").status == 200)
        assert dashboard_pid(found) == first


def log_in(port: int, token: str) -> str:
    body = urllib.parse.urlencode({"token": token}).encode()
    form = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{port}"}
    answer = ask(port, "/login", body, headers=form)
    assert answer.status == 303
    return answer.headers["set-cookie"].partition(";")[0]


def test_a_logout_ends_the_session_for_good_and_no_other(tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    with line(tmp_path, bundle, environment={"EDGE_AD_WEB_TOKEN": TOKEN}) as found:
        leaving, staying = (log_in(found.port, TOKEN) for _ in range(2))

        def status(cookie: str) -> int:
            return ask(found.port, "/api/state", headers={"Cookie": cookie}).status

        assert (status(leaving), status(staying)) == (200, 200)
        left = ask(found.port, "/logout", b"", headers={"Cookie": leaving, "X-Edge-Ad": "1"})
        assert left.status == 303
        assert (status(leaving), status(staying)) == (401, 200)
        kill_dashboard(found)
        until(lambda: ask(found.port, "/readyz").status == 200)
        assert (status(leaving), status(staying)) == (401, 200)
        kept = tmp_path / "line.sessions"
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_a_token_is_not_enough_to_make_a_session_of_any_role(tmp_path: Path) -> None:
    """Who has the read-only token, and guesses the other one offline from a cookie, must find a random secret in the way."""
    bundle = make_tiny_bundle(tmp_path / "tiny.edgead")
    with line(tmp_path, bundle, environment={"EDGE_AD_WEB_TOKEN": TOKEN}) as found:
        text = f"full.{int(time.time()) + 3600}.0011223344556677"
        secret = hashlib.sha256(f"session of edge-ad\0{TOKEN}\0{None}".encode()).digest()
        seal = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
        forged = {"Cookie": f"{COOKIE}={text}.{seal}"}
        assert ask(found.port, "/api/state", headers=forged).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://["},
        {"Origin": "http://[::1"},
        {"Origin": "http://\xa0"},
        {"Origin": "http://a\u2100b".encode().decode("latin-1")},
        {"Host": "["},
        {"Cookie": "edge_ad_session=..."},
        {"Cookie": "edge_ad_session=a.b.c.d; \xff=\xfe"},
        {"Authorization": "Bearer \xff\xfe"},
        {"Authorization": "Bearer"},
        {"Sec-Fetch-Site": "\xff"},
        {"If-None-Match": "\xff"},
    ],
    ids=str,
)
def test_no_header_makes_the_server_fail(guarded_line: Line, headers: dict[str, str]) -> None:
    for path in ("/", "/api/state", "/healthz", "/login"):
        answer = ask(guarded_line.port, path, headers=headers)
        assert answer.status < 500, (path, answer)
        assert dressed(dict(answer.headers)), path


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1_0\r\n\r\n",
    ],
    ids=["tls", "version", "target", "length"],
)
def test_what_is_no_http_is_refused_with_all_headers(guarded_line: Line, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", guarded_line.port), 20) as connection:
        connection.sendall(sent)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status in (400, 403)
        assert dressed({name.lower(): value for name, value in answer.getheaders()})


class Proxy(BaseHTTPRequestHandler):
    """A reverse proxy as nginx is one with `proxy_set_header Host $host`: it hands the request on and adds who asked."""

    backend = 0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection("127.0.0.1", self.backend, timeout=30)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.putheader("X-Forwarded-For", self.client_address[0])
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def proxied(port: int) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Proxy,), {"backend": port}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def documented_settings() -> str:
    """Return the settings for a reverse proxy as the page shows them."""
    blocks = re.findall(r"```toml\n(.*?)```", DOCUMENTED.read_text(), re.DOTALL)
    (found,) = [block for block in blocks if "web_names" in block]
    assert tomllib.loads(found)["run"]["web"].startswith("127.0.0.1:")
    return str(found)


def threshold(port: int, host: str, token: str | None) -> Answer:
    wanted = {"warn": 100.0, "ng": 200.0, "reason": "test"}
    return ask(port, "/api/thresholds", wanted, headers={"Host": host}, token=token)


def test_behind_the_documented_proxy_nobody_comes_in_without_a_token(tmp_path: Path) -> None:
    settings = documented_settings()
    (tmp_path / "edge-ad.toml").write_text(settings)
    name = tomllib.loads(settings)["run"]["web_names"][0]
    with line(tmp_path, make_tiny_bundle(tmp_path / "tiny.edgead")) as found, proxied(found.port) as port:
        assert found.token is not None  # made and told, because none is in the environment
        for path in ("/api/state", "/api/events", "/metrics"):
            assert ask(port, path, headers={"Host": name}).status == 401
            assert ask(port, path, headers={"Host": name}, token=found.token).status == 200
        assert threshold(port, name, None).status == 401
        assert threshold(port, name, found.token).status == 200
        assert ask(port, "/healthz", headers={"Host": name}).status == 200


def test_a_proxy_that_nobody_announced_lets_nobody_in(open_line: Line) -> None:
    with proxied(open_line.port) as port:
        for path in ("/api/state", "/metrics", "/"):
            answer = ask(port, path, headers={"Host": "localhost"})
            assert answer.status == 403
            assert b"token" in answer.body
        assert threshold(port, "localhost", None).status == 403
        assert ask(port, "/healthz", headers={"Host": "localhost"}).status == 200
    assert open_line.ask("/api/state").status == 200  # this machine itself
