"""A line with its dashboard in a process of its own, and a browser, for the tests and the tools."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
CAMERA = "synthetic://line?frames=1000000&seed=1&fps=5"
PATIENCE_S = 90.0


def browser_missing() -> str | None:
    """Return why no browser can be had, None when one can."""
    if not CHROMIUM.exists():
        return f"{CHROMIUM} is missing: apt-get install chromium"
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "the package playwright is missing: pip install 'edge-ad[test]'"
    return None


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """Start the system's Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        try:
            yield started
        finally:
            started.close()


@dataclass(frozen=True)
class Answer:
    """What a server answered; header names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Line:
    """A running `edge-ad run --web`; ``said`` collects its messages."""

    process: subprocess.Popen[str]
    port: int
    store: Path
    bundle: Path | None
    token: str | None
    said: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        token: str | None = "own",
    ) -> Answer:
        """Send one request as it stands: no redirect is followed and no path is tidied up."""
        return ask(self.port, path, body, method=method, headers=headers, token=self.token if token == "own" else token)

    def wait(self, check: Callable[[dict[str, Any]], Any]) -> Any:
        """Wait until ``check`` of the state gives something true, and return that."""
        return until(lambda: check(self.ask("/api/state").json()))

    def stop(self) -> int:
        """End it in good order; return its exit code."""
        self.process.terminate()
        return self.process.wait(20)


def ask(
    port: int,
    path: str,
    body: Any = None,
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    token: str | None = None,
    host: str = "127.0.0.1",
) -> Answer:
    """Send one request; ``body`` goes as JSON unless it is bytes, with the header that changes need."""
    sent = {"Host": f"127.0.0.1:{port}"}
    data: bytes | None = None
    if body is not None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent |= {"Content-Type": "application/json", "X-Edge-Ad": "1"}
    if token is not None:
        sent["Authorization"] = f"Bearer {token}"
    sent |= dict(headers or {})
    connection = http.client.HTTPConnection(host, port, timeout=30)
    try:
        connection.putrequest(method or ("GET" if data is None else "POST"), path, skip_host=True)
        for name, value in sent.items():
            connection.putheader(name, value)
        if data is not None:
            connection.putheader("Content-Length", str(len(data)))
        connection.endheaders(data)
        answer = connection.getresponse()
        return Answer(answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def until(check: Callable[[], Any], within_s: float = PATIENCE_S) -> Any:
    """Ask again and again until something true comes; AssertionError when it does not."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError, IndexError, TypeError):
            result = check()
            if result:
                return result
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


@contextlib.contextmanager
def line(
    folder: Path,
    bundle: Path | None,
    *more: str,
    camera: str = CAMERA,
    address: str = "127.0.0.1:0",
    environment: Mapping[str, str] | None = None,
    judging: bool = True,
) -> Iterator[Line]:
    """Run a line with a dashboard in ``folder`` until the context ends; ready, and ``judging``, when it begins."""
    store = folder / "line.sqlite"
    named = [] if bundle is None else [str(bundle)]  # without one the products of edge-ad.toml
    command = [sys.executable, "-m", "edge_ad", "run", *named, "--camera", camera, "--realtime"]
    command += ["--web", address, "--store", str(store), "--backend", "onnxruntime", "--precision", "fp32", *more]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_AD_WEB")}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**kept, "OMP_NUM_THREADS": "1", **(environment or {})},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    result = Line(process, 0, store, bundle, (environment or {}).get("EDGE_AD_WEB_TOKEN"))
    threading.Thread(target=_collect, args=(process, result.said), daemon=True).start()
    try:
        result.port = until(lambda: _port(result.said, process))
        if result.token is None:
            result.token = _made_token(result.said)
        result.wait(lambda state: state["count"] > 0 if judging else state["run"])
        yield result
    finally:
        process.kill()
        process.wait()


def _collect(process: subprocess.Popen[str], said: list[str]) -> None:
    assert process.stderr is not None
    for text in process.stderr:
        said.append(text.rstrip())


def _port(said: list[str], process: subprocess.Popen[str]) -> int | None:
    assert process.poll() is None, "\n".join(said)
    match = re.search(r"dashboard: http://\S+:(\d+)/", "\n".join(said))
    return int(match[1]) if match else None


def _made_token(said: list[str]) -> str | None:
    match = re.search(r"dashboard token .*: (\S+)", "\n".join(said))
    return match[1] if match else None
