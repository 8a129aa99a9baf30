"""Users of the dashboard: their file, their roles on a real server, sessions that end, and what the audit trail says."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_ad.cli.app import main
from edge_ad.errors import BadInput
from edge_ad.events import Event
from edge_ad.store import Store
from edge_ad.store.actions import action_log
from edge_ad.web.access import COOKIE, Access, Refusal, Request
from edge_ad.web.address import Names, Tokens
from edge_ad.web.users import Identity, Users, users_path
from tests.web.running import Answer, ask, until
from tests.web.test_page import Watch

pytest.importorskip("argon2", reason="pip install 'edge-ad[line]'")
PASSWORD = "correct horse"
ROLES = ("operator", "engineer", "admin")
EVENT = "00000000-0000-4000-8000-000000000001"


def users_of(folder: Path, *roles: str) -> Users:
    users = Users(users_path(folder / "line.sqlite"))
    for role in roles:
        users.add(f"{role}-1", role, PASSWORD)
    return users


def test_file_holds_argon2id_hashes_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    users = users_of(tmp_path, "admin", "operator")
    text = users.path.read_text()
    assert users.path.stat().st_mode & 0o777 == 0o600
    assert text.count("$argon2id$v=19$m=19456,t=2,p=1$") == 2
    assert PASSWORD not in text
    assert users.verify("admin-1", PASSWORD) == users.all()["admin-1"]
    assert users.verify("admin-1", PASSWORD + " ") is None
    assert users.verify("nobody", PASSWORD) is None
    users.path.chmod(0o644)
    with pytest.raises(BadInput, match="others may read them; `chmod 600"):
        Users(users.path).all()


def test_session_of_a_removed_user_does_not_come_back_with_the_name(tmp_path: Path) -> None:
    users = users_of(tmp_path, "admin", "operator")
    access = Access(Tokens(), Names(True), users=users)
    cookie = f"{COOKIE}={access.session(users.all()['operator-1'])}"
    request = Request("GET", "/api/state", "/api/state", headers={"host": "127.0.0.1:8080", "cookie": cookie}, client="127.0.0.1")
    assert isinstance(access.check(request), Identity)
    users.remove("operator-1")
    users.add("operator-1", "engineer", PASSWORD)
    assert isinstance(access.check(request), Refusal)


@pytest.mark.parametrize(
    ("words", "typed", "message"),
    [
        (["add", "anna", "--role", "operator"], PASSWORD, "the first user must be an admin"),
        (["add", "anna", "--role", "boss"], PASSWORD, "choose one of operator, engineer, admin"),
        (["add", "an/na", "--role", "admin"], PASSWORD, "write up to 40 letters"),
        (["add", "anna", "--role", "admin"], "short", "5 characters: 10 to 200 are allowed"),
        (["add", "anna", "--role", "admin"], "", "no password was given"),
        (["add", "anna"], PASSWORD, "--role goes with"),
        (["remove", "nobody"], "", "there is no user 'nobody': there are none"),
        (["password"], "", "needs the name of a user"),
        (["forget"], "", "unknown action 'forget'"),
    ],
)
def test_wrong_commands_are_refused_with_a_sentence(
    tmp_path: Path, words: list[str], typed: str, message: str, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{typed}\n" if typed else ""))
    assert main(["users", *words, "--store", str(tmp_path / "line.sqlite")]) == 2
    assert message in capsys.readouterr().err
    assert not users_path(tmp_path / "line.sqlite").exists()


def test_commands_manage_users_and_leave_a_trail(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    store = tmp_path / "line.sqlite"

    def users(*words: str, typed: str = "") -> int:
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        return main(["users", *words, "--store", str(store)])

    assert users("add", "anna", "--role", "admin", typed=f"{PASSWORD}\n") == 0
    assert users("add", "ben", "--role", "operator", typed="another password\n") == 0
    assert users("role", "ben", "--role", "engineer") == 0
    assert users("password", "ben", typed="a third password\n") == 0
    assert users("remove", "anna") == 2
    assert "no admin would be left" in capsys.readouterr().err
    assert users("list") == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [["anna", "admin"], ["ben", "engineer"]]
    assert users("remove", "ben") == 0
    assert users("remove", "anna") == 0
    assert "no login is taken any more" in capsys.readouterr().out
    assert [one.reason for one in action_log(store).actions()] == [
        "anna added as admin", "ben added as operator", "ben is engineer now",
        "password of ben changed", "ben removed", "anna removed",
    ]  # fmt: skip
    assert PASSWORD not in action_log(store).path.read_text()


class Site:
    """`edge-ad web` over a small record, with users."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.store = folder / "line.sqlite"
        self.users = Users(users_path(self.store))

    def login(self, name: str, password: str = PASSWORD) -> Answer:
        form = urllib.parse.urlencode({"name": name, "password": password}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{self.port}"}
        return ask(self.port, "/login", form, headers=headers)

    def cookie(self, name: str) -> dict[str, str]:
        answer = self.login(name)
        assert answer.status == 303, answer.body
        return {"Cookie": answer.headers["set-cookie"].partition(";")[0]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    store = Store(folder / "line.sqlite")
    store.record(Event("cam", 1, "1", 1e9, "NG", 5.0, {"local": 5.0}, 10.0, "local: z 5.0", id=EVENT))
    assert store.close(60.0)
    users_of(folder, "admin", "operator", "engineer")
    command = [sys.executable, "-m", "edge_ad", "web", "127.0.0.1:0", "--store", str(folder / "line.sqlite")]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EDGE_AD_WEB")}
    with subprocess.Popen(command, cwd=folder, env=kept, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            result = re.search(r"dashboard: http://\S+:(\d+)/", process.stderr.readline())
            assert result is not None
            place = Site(folder, int(result[1]))
            assert until(lambda: ask(place.port, "/healthz").status)
            yield place
        finally:
            process.kill()


MARK, PAUSE = (f"/api/events/{EVENT}/mark", {"mark": "bad"}), ("/api/pause", {"reason": "lens"})
PRODUCT, CHALLENGE = ("/api/product", {"name": "a"}), ("/api/challenge", {})
THRESHOLDS, OVERRIDE = ("/api/thresholds", {"warn": 1, "ng": 2}), ("/api/challenge/override", {"reason": "x"})
JUDGE = ("/api/judge", {})
USERS = ("/api/users", {"name": "x", "role": "admin", "password": PASSWORD})
TABLE = [  # what the role may do answers anything but 403
    *((request, role, True) for request in (MARK, PAUSE, PRODUCT, CHALLENGE) for role in ROLES),
    *((request, role, role != "operator") for request in (THRESHOLDS, OVERRIDE, JUDGE) for role in ROLES),
    *((USERS, role, role == "admin") for role in ROLES),
]


@pytest.fixture(scope="module")
def cookies(site: Site) -> dict[str, dict[str, str]]:
    return {role: site.cookie(f"{role}-1") for role in ROLES}


@pytest.mark.parametrize(("request_", "role", "allowed"), TABLE)
def test_roles_may_what_they_may_and_no_more(
    site: Site, cookies: dict[str, dict[str, str]], request_: tuple[str, Any], role: str, allowed: bool
) -> None:
    path, body = request_
    answer = ask(site.port, path, body, headers=cookies[role])
    assert (answer.status != 403) is allowed
    if not allowed:
        takes = "an admin" if path == "/api/users" else "an engineer"
        assert answer.json()["error"] == f"{role}-1 is an {role} and may not do this: it takes {takes}"


def test_nobody_gets_in_without_a_login_and_forms_of_other_pages_do_not_log_in(site: Site) -> None:
    assert ask(site.port, "/api/state").status == 401
    assert ask(site.port, "/").headers["location"] == "/login"
    form = urllib.parse.urlencode({"name": "admin-1", "password": PASSWORD}).encode()
    foreign = {"Content-Type": "application/x-www-form-urlencoded", "Origin": "http://attacker.example"}
    assert ask(site.port, "/login", form, headers=foreign).status == 403
    assert ask(site.port, *MARK, headers={"X-Edge-Ad": "", "Authorization": "Bearer operator-1"}).status == 401


def test_actions_carry_the_name_of_the_user_and_the_state_states_what_the_page_may(
    site: Site, cookies: dict[str, dict[str, str]]
) -> None:
    state = ask(site.port, "/api/state", headers=cookies["operator"]).json()
    assert (state["role"], state["user"], state["may"]) == ("operator", "operator-1", ["operate"])
    assert ask(site.port, *MARK, headers=cookies["operator"]).json()["mark"] == "bad"
    last = list(action_log(site.store).actions())[-1]
    assert (last.kind, last.by, last.origin, last.details) == ("mark", "operator-1", "dashboard", {"event": EVENT, "mark": "bad"})
    assert ("login", "operator-1") in [(one.kind, one.by) for one in action_log(site.store).actions()]


def test_session_ends_with_a_logout_another_password_another_role_and_the_user(site: Site) -> None:
    users = site.users

    def status(cookie: dict[str, str]) -> int:
        return ask(site.port, "/api/state", headers=cookie).status

    users.add("carl", "operator", PASSWORD)
    cookie = site.cookie("carl")
    assert status(cookie) == 200
    ask(site.port, "/logout", b"", headers={**cookie, "Origin": f"http://127.0.0.1:{site.port}"})
    assert status(cookie) == 401
    cookie = site.cookie("carl")
    users.set_role("carl", "engineer")
    assert status(cookie) == 401
    cookie = site.cookie("carl")
    users.set_password("carl", "another password")
    assert status(cookie) == 401
    assert site.login("carl").status == 401
    users.remove("carl")
    assert site.login("carl", "another password").status == 401
    refused = [one.by for one in action_log(site.store).actions() if one.kind == "login refused"]
    assert refused == ["carl"]  # the first of a minute, not every one


@pytest.mark.slow
@pytest.mark.parametrize("size", ["wide", "phone"])
def test_page_of_an_operator_offers_what_an_operator_may(chromium: Any, site: Site, shots: Path, size: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
    result = Watch(chromium, f"http://127.0.0.1:{site.port}/login", size)
    page = result.page
    page.screenshot(path=shots / f"login-users-{size}.png")
    assert axe.Axe().run(page).response["violations"] == []
    page.keyboard.type("operator-1")  # the first field has the focus
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_selector('body[data-link="record"]')
    assert "operator-1 (operator)" in page.inner_text("#user")
    page.click("#tab-events")
    page.click("#rows tr button")
    assert page.is_visible("#detail button:has-text('Was good')")
    page.click("#tab-thresholds")
    page.wait_for_selector("#apply", state="hidden")
    page.click("#tab-health")
    page.wait_for_selector("#actions tbody tr")
    assert axe.Axe().run(page).response["violations"] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    page.screenshot(path=shots / f"health-operator-{size}.png", full_page=True)
    result.close()
    assert result.errors == []


def test_too_many_wrong_passwords_have_to_wait(site: Site) -> None:  # the last one: it shuts the test's own address out
    answers = [site.login("nobody", "wrong password").status for _ in range(11)]
    assert answers[0] == 401
    assert answers[-1] == 429
    assert site.login("admin-1").status == 429
