"""The webhook against a receiver that fails on purpose."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import time
from typing import Any

import pytest

from edge_ad.outputs import webhook as webhook_module
from edge_ad.outputs.delivery import NotNow, Refused
from edge_ad.outputs.webhook import TOKEN, Webhook
from tests.fixtures.loopback import free_port
from tests.outputs.events import event, lines

LINE = lines(1)[0]


class Receiver:
    """A receiver that answers as told: a status, (status, headers), "hang up" or "silence"."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.requests: list[tuple[str, dict[str, str], str]] = []
        self.connections = 0
        self.gate = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                outer.requests.append((self.path, dict(self.headers), body))
                answer = outer.answers.pop(0) if outer.answers else 204
                if answer == "hang up":
                    self.close_connection = True
                    return
                if answer == "silence":
                    outer.gate.wait(30)
                    return
                status, headers = answer if isinstance(answer, tuple) else (answer, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                text = b"" if status == 204 else b"why it is so"
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                self.close_connection = headers.get("Connection") == "silent close"

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.uri = f"http://127.0.0.1:{self._server.server_port}/events?line=3"

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_an_event_is_posted_with_its_id_as_key(
    status: int, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "t0ken")
    receiver.answers = [status]
    hook = Webhook(receiver.uri)
    hook.open()
    hook.deliver(LINE)
    hook.close()
    [(path, headers, body)] = receiver.requests
    assert path == "/events?line=3"
    assert body == LINE
    assert headers["Idempotency-Key"] == event(0).id
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer t0ken"


def test_the_connection_is_kept(receiver: Receiver) -> None:
    hook = Webhook(receiver.uri)
    for line in lines(5):
        hook.deliver(line)
    assert (len(receiver.requests), receiver.connections) == (5, 1)
    assert [json.loads(body)["frame"] for _, _, body in receiver.requests] == list(range(5))
    hook.close()


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (400, Refused, "400 Bad Request why it is so"),
        (409, Refused, "409"),
        (413, Refused, "413"),
        (422, Refused, "422"),
        (500, ConnectionError, "500"),
        (502, ConnectionError, "502"),
        (503, ConnectionError, "503"),
        ((503, {"Retry-After": "7"}), NotNow, "7 s"),
        ((429, {"Retry-After": "12"}), NotNow, "12 s"),
        ((429, {"Retry-After": formatdate(time() - 60, usegmt=True)}), NotNow, "0 s"),
        ((429, {"Retry-After": "soon"}), NotNow, "5 s"),
        (429, NotNow, "5 s"),
        (408, NotNow, "5 s"),
        (401, ConnectionError, "401"),
        (404, ConnectionError, "404"),
        ((301, {"Location": "/elsewhere"}), ConnectionError, "301"),
        ("hang up", ConnectionError, "closed connection"),
    ],
)
def test_what_is_tried_again_and_what_is_refused(
    answer: Any, error: type[Exception], message: str, receiver: Receiver
) -> None:
    receiver.answers = [answer]
    hook = Webhook(receiver.uri)
    with pytest.raises(error, match=message):
        hook.deliver(LINE)
    hook.close()
    assert len(receiver.requests) == 1
    hook.deliver(LINE)
    hook.close()


def test_a_kept_connection_that_was_closed_meanwhile_is_no_fault(receiver: Receiver) -> None:
    receiver.answers = [(200, {"Connection": "silent close"})]
    hook = Webhook(receiver.uri)
    hook.deliver(LINE)
    hook.deliver(LINE)
    assert (len(receiver.requests), receiver.connections) == (2, 2)
    hook.close()


def test_silence_and_absence_are_reported(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_module, "TIMEOUT_S", 0.2)
    receiver.answers = ["silence"]
    hook = Webhook(receiver.uri)
    with pytest.raises(TimeoutError):
        hook.deliver(LINE)
    hook.close()
    with pytest.raises(ConnectionError):
        Webhook(f"http://127.0.0.1:{free_port()}/").deliver(LINE)


def test_something_that_speaks_no_http_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(Exception, match="SSH"):
            Webhook(f"http://127.0.0.1:{server.getsockname()[1]}/").deliver(LINE)
