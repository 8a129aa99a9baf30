"""Who gets in: names, origins, tokens, sessions, roles; and a thousand requests that must not."""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_ad.errors import BadInput
from edge_ad.web.access import COOKIE, MAX_FAILURES, SESSION_S, Access, Refusal, Request
from edge_ad.web.address import Address, Names, Tokens, find_tokens, names_for, parse_address
from edge_ad.web.users import Identity
from tests.web.conftest import READ_TOKEN, TOKEN
from tests.web.running import Line

HOST = {"host": "127.0.0.1:8080"}
KEYS = Tokens(TOKEN, READ_TOKEN)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def access(keys: Tokens = KEYS, names: Names | None = None, clock: Callable[[], float] | None = None) -> Access:
    return Access(keys, names or Names(True), clock or Clock())


def request(
    path: str = "/api/state", method: str = "GET", raw: str | None = None, client: str = "1.2.3.4", **headers: str
) -> Request:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(method, path, raw or path, headers={**HOST, **named}, client=client)


def status(found: object) -> int:
    return found.status if isinstance(found, Refusal) else 200


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("8080", Address("127.0.0.1", 8080)),
        ("[::1]:0", Address("::1", 0)),
        ("line-3.plant.local:80", Address("line-3.plant.local", 80)),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text", ["", "host", "host:", ":80", "host:65536", "[x]:80", "a b:80", "http://host:80", "::1:80"]
)
def test_wrong_addresses(text: str) -> None:
    with pytest.raises(BadInput, match="write HOST:PORT"):
        parse_address(text)


@pytest.mark.parametrize(
    ("host", "environment", "wanted", "made"),
    [
        ("127.0.0.1", {}, False, False),
        ("localhost", {}, False, False),
        ("0.0.0.0", {}, True, True),
        ("192.168.1.5", {"EDGE_AD_WEB_READ_TOKEN": READ_TOKEN}, True, True),
        ("127.0.0.1", {"EDGE_AD_WEB_READ_TOKEN": READ_TOKEN}, True, True),
        ("0.0.0.0", {"EDGE_AD_WEB_TOKEN": TOKEN}, True, False),
    ],
)
def test_which_addresses_need_a_token(host: str, environment: dict[str, str], wanted: bool, made: bool) -> None:
    keys, message = find_tokens(Address(host, 80), environment)
    assert (keys.wanted, message) == (wanted, made)
    assert not made or (keys.full is not None and len(keys.full) >= 16)


@pytest.mark.parametrize(
    "environment",
    [
        {"EDGE_AD_WEB_TOKEN": "short"},
        {"EDGE_AD_WEB_TOKEN": "ü" * 20},
        {"EDGE_AD_WEB_READ_TOKEN": "x" * 15},
        {"EDGE_AD_WEB_TOKEN": TOKEN, "EDGE_AD_WEB_READ_TOKEN": TOKEN},
    ],
)
def test_weak_tokens_are_refused(environment: dict[str, str]) -> None:
    with pytest.raises(BadInput):
        find_tokens(Address("0.0.0.0", 80), environment)


@pytest.mark.parametrize(
    ("host", "loopback", "network"),
    [
        ("127.0.0.1", True, True),
        ("localhost:8080", True, True),
        ("[::1]:8080", True, True),
        ("192.168.1.5:8080", False, True),
        ("proxy.plant:443", True, True),  # given by hand
        ("attacker.example", False, False),
        ("127.0.0.1.attacker.example", False, False),
        ("127.0.0.1@attacker.example", False, False),
        ("", False, False),
    ],
)
def test_names_that_a_server_answers_to(host: str, loopback: bool, network: bool) -> None:
    assert names_for(Address("127.0.0.1", 1), ["proxy.plant"]).allows(host) is loopback
    assert names_for(Address("0.0.0.0", 1), ["Proxy.Plant"]).allows(host) is network


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (request("/healthz"), 200),
        (request("/login"), 200),
        (request("/api/state"), 401),
        (request("/metrics"), 401),
        (request("/openapi.json"), 401),
        (request("/static/main.js"), 401),
        (request(authorization=f"Bearer {TOKEN}"), 200),
        (request(authorization=f"Bearer {READ_TOKEN}"), 200),
        (request(authorization=f"bearer {READ_TOKEN}"), 200),
        (request(authorization=f"Basic {TOKEN}"), 401),
        (request(authorization=f"Bearer {TOKEN}x"), 401),
        (request(authorization=f"Bearer {TOKEN[:-1]}"), 401),
        (request("/api/thresholds", "POST", authorization=f"Bearer {TOKEN}", x_edge_ad="1"), 200),
        (request("/api/thresholds", "POST", authorization=f"Bearer {TOKEN}"), 403),
        (request("/api/thresholds", "POST", authorization=f"Bearer {READ_TOKEN}", x_edge_ad="1"), 403),
        (request("/healthz", origin="http://attacker.example"), 403),
        (request("/healthz", origin="null"), 403),
        (request("/healthz", origin="http://127.0.0.1:8080"), 200),
        (request("/healthz", origin="http://127.0.0.1:9090"), 403),  # another program of this machine
        (request("/healthz", sec_fetch_site="cross-site", sec_fetch_mode="no-cors"), 403),
        (request("/login", sec_fetch_site="cross-site", sec_fetch_mode="navigate"), 200),  # a link from elsewhere
        (request("/login", "POST", sec_fetch_site="cross-site", sec_fetch_mode="navigate"), 403),
        (request("/login", "POST"), 403),
        (request("/healthz", raw="/static/..%2fhealthz"), 400),
        (request("/healthz", raw="//healthz"), 400),
        (request("/healthz", content_length="1000000"), 413),
    ],
)
def test_requests(asked: Request, expected: int) -> None:
    assert status(access().check(asked)) == expected


def test_without_tokens_only_foreign_pages_are_refused() -> None:
    free = access(Tokens())
    assert free.check(request()) == Identity("full")
    assert status(free.check(request("/api/thresholds", "POST", x_edge_ad="1"))) == 200
    assert status(free.check(request("/api/thresholds", "POST"))) == 403
    assert (
        status(free.check(request("/api/thresholds", "POST", origin="http://attacker.example", x_edge_ad="1"))) == 403
    )
    assert status(free.check(request(host="attacker.example"))) == 403  # DNS rebinding


def test_a_session_keeps_its_role_until_it_ends_or_the_tokens_change() -> None:
    clock = Clock()
    door = access(clock=clock)
    read, full = door.session("read"), door.session("full")
    assert door.check(request(cookie=f"other=1; {COOKIE}={read}")) == Identity("read")
    assert door.check(request("/api/thresholds", "POST", x_edge_ad="1", cookie=f"{COOKIE}={full}")) == Identity("full")
    assert status(door.check(request("/api/thresholds", "POST", x_edge_ad="1", cookie=f"{COOKIE}={read}"))) == 403
    assert status(door.check(request(cookie=f"{COOKIE}={read.replace('read', 'full')}"))) == 401
    assert status(access(Tokens("another token of the line")).check(request(cookie=f"{COOKIE}={full}"))) == 401
    clock.now += SESSION_S + 1
    assert status(door.check(request(cookie=f"{COOKIE}={full}"))) == 401


def test_too_many_wrong_tokens_have_to_wait_but_sessions_go_on() -> None:
    door = access()
    cookie = f"{COOKIE}={door.session('full')}"
    for _ in range(MAX_FAILURES):
        assert status(door.check(request(authorization="Bearer wrong"))) == 401
    assert status(door.check(request(authorization=f"Bearer {TOKEN}"))) == 429
    assert door.check(request(cookie=cookie)) == Identity("full")
    assert door.check(request(authorization=f"Bearer {TOKEN}", client="5.6.7.8")) == Identity("full")


@given(st.text(max_size=300), st.text(max_size=60))
def test_no_cookie_and_no_token_that_was_not_given_opens_anything(cookie: str, token: str) -> None:
    result = access().check(request(cookie=cookie, authorization=f"Bearer {token}" if token else ""))
    assert status(result) in (401, 400)


@pytest.mark.slow
def test_login_by_the_form_gives_a_strict_cookie(guarded_line: Line) -> None:
    own = {"Origin": f"http://127.0.0.1:{guarded_line.port}", "Content-Type": "application/x-www-form-urlencoded"}
    assert guarded_line.ask("/", token=None).headers["location"] == "/login"
    wrong = guarded_line.ask("/login", b"token=%3Cscript%3E", headers=own, token=None)
    assert wrong.status == 401
    assert b"<script>" not in wrong.body
    foreign = guarded_line.ask(
        "/login", f"token={TOKEN}".encode(), headers={**own, "Origin": "http://x.example"}, token=None
    )
    assert foreign.status == 403
    assert "set-cookie" not in foreign.headers
    right = guarded_line.ask("/login", f"token={READ_TOKEN}".encode(), headers=own, token=None)
    assert (right.status, right.headers["location"]) == (303, "/")
    cookie = right.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert READ_TOKEN not in cookie
    session = {"Cookie": cookie.partition(";")[0]}
    state = guarded_line.ask("/api/state", headers=session, token=None).json()
    assert (state["role"], state["login"]) == ("read", True)
    assert TOKEN not in str(state)
    refused = guarded_line.ask("/api/alarms/1/acknowledge", {}, headers=session, token=None)
    assert refused.status == 403


@pytest.mark.slow
def test_a_thousand_requests_that_must_be_refused(guarded_line: Line) -> None:
    """Every path of the API with no token, wrong ones, foreign pages and names, and tricks with paths."""
    paths = [path.replace("{", "").replace("}", "") for path in guarded_line.ask("/openapi.json").json()["paths"]]
    closed = [*(path for path in paths if path not in ("/healthz", "/readyz")), "/", "/static/main.js", "/openapi.json"]
    foreign = ["http://attacker.example", "null", "https://127.0.0.1", "http://localhost:1"]
    hosts = ["attacker.example", "127.0.0.1.attacker.example", "localhost.attacker.example:80", ""]
    tricks = [f"/static/{up}{target}" for up in _ups() for target in ("etc/passwd", "line.sqlite", "serve.py")]
    for number in range(1000):
        path, kind = closed[number % len(closed)], number % 5
        post = number % 3 == 0
        if kind == 0:
            answer = guarded_line.ask(path, {} if post else None, token=None)
        elif kind == 1:
            answer = guarded_line.ask(path, {} if post else None, token=f"wrong-token-{number:020d}")
        elif kind == 2:
            answer = guarded_line.ask(path, {} if post else None, headers={"Origin": foreign[number % len(foreign)]})
        elif kind == 3:
            answer = guarded_line.ask(path, headers={"Host": hosts[number % len(hosts)]})
        else:
            answer = guarded_line.ask(tricks[number % len(tricks)])
        assert answer.status in (303, 400, 401, 403, 404, 405, 429), (path, kind, answer.status)
        assert kind == 4 or answer.status != 404 or path not in closed, (path, kind)
        assert answer.status != 303 or answer.headers["location"] == "/login"
        assert b"root:" not in answer.body
        assert TOKEN.encode() not in answer.body
    forged = {"Cookie": f"{COOKIE}=full.99999999999.00.{'0' * 64}"}
    assert guarded_line.ask("/api/thresholds", headers=forged, token=None).status == 401


def _ups() -> list[str]:
    plain = ["../", "..\\", "..;/", "....//", "./../", "/"]
    return [
        *(up * count for up in plain for count in (1, 3, 6)),
        *(urllib.parse.quote(up, safe="") * 4 for up in plain),
    ]


@pytest.mark.slow
def test_answers_carry_the_headers_that_keep_scripts_and_frames_out(open_line: Line) -> None:
    for path in ("/", "/api/state", "/nothing", "/static/main.js"):
        headers = open_line.ask(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
    page = open_line.ask("/").body.decode()
    assert "<script>" not in page
    assert "style=" not in page
