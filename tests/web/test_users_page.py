"""An admin manages users over the dashboard: by requests, and in a real browser by mouse and keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge_ad.store.actions import action_log
from tests.web.running import Answer, ask
from tests.web.test_page import SIZES, Watch, wait
from tests.web.test_users import PASSWORD, Site, site

pytest.importorskip("argon2", reason="pip install 'edge-ad[line]'")
__all__ = ["site"]  # the fixture


def trail(site: Site) -> list[tuple[str, str]]:
    """Return who did what to users."""
    return [(one.by, one.reason) for one in action_log(site.store).actions() if one.kind == "users"]


def test_an_admin_adds_changes_and_removes_users_and_the_trail_has_who(site: Site) -> None:
    admin = site.cookie("admin-1")

    def send(path: str, **body: str) -> Answer:
        return ask(site.port, f"/api/users{path}", body, headers=admin)

    assert send("", name="dora", role="operator", password=PASSWORD).json() == {"told": "dora added as operator"}
    cookie = site.cookie("dora")
    assert send("/role", name="dora", role="engineer").json() == {"told": "dora is engineer now"}
    assert ask(site.port, "/api/state", headers=cookie).status == 401, "another role ends the sessions"
    assert send("/password", name="dora", password="another password").json() == {"told": "password of dora changed"}
    assert site.login("dora", "another password").status == 303
    rows = ask(site.port, "/api/users", headers=admin).json()
    assert {"name": "dora", "role": "engineer"} in rows
    assert {key for row in rows for key in row} == {"name", "role"}, "no hash leaves the station"
    assert send("/remove", name="dora").json() == {"told": "dora removed"}
    assert trail(site) == [
        ("admin-1", text)
        for text in ("dora added as operator", "dora is engineer now", "password of dora changed", "dora removed")
    ]
    assert PASSWORD not in action_log(site.store).path.read_text()


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("", {"name": "operator-1", "role": "admin", "password": PASSWORD}, 400, "there is a user operator-1 already"),
        ("", {"name": "an/na", "role": "admin", "password": PASSWORD}, 400, "write up to 40 letters"),
        ("", {"name": "anna", "role": "admin", "password": "short"}, 400, "10 to 200 are allowed"),
        ("", {"name": "anna", "role": "boss", "password": PASSWORD}, 422, "role"),
        ("/role", {"name": "nobody", "role": "admin"}, 400, "there is no user 'nobody'"),
        ("/role", {"name": "admin-1", "role": "operator"}, 409, "another admin gives you another role"),
        ("/remove", {"name": "admin-1"}, 409, "another admin removes you"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence_without_the_password(
    site: Site, path: str, body: dict[str, str], status: int, message: str
) -> None:
    before = site.users.path.read_bytes()
    answer = ask(site.port, f"/api/users{path}", body, headers=site.cookie("admin-1"))
    assert (answer.status, message in answer.json()["error"]) == (status, True), answer.body
    assert body.get("password", PASSWORD) not in answer.body.decode()
    assert site.users.path.read_bytes() == before


@pytest.mark.parametrize("path", ["", "/role", "/password", "/remove"])
def test_only_a_request_of_our_page_by_an_admin_counts(site: Site, path: str) -> None:
    admin, body = site.cookie("admin-1"), {"name": "operator-1", "role": "admin", "password": PASSWORD}
    before = site.users.path.read_bytes()
    foreign = {"X-Edge-Ad": "", "Origin": "http://attacker.example"}
    for headers, status in (
        ({**admin, **foreign}, 403), ({**admin, "Sec-Fetch-Site": "cross-site"}, 403),
        (site.cookie("engineer-1"), 403), ({}, 401),
    ):  # fmt: skip
        assert ask(site.port, f"/api/users{path}", body, headers=headers).status == status
    assert ask(site.port, "/api/users", headers=site.cookie("engineer-1")).status == 403, "nor may others look"
    assert site.users.path.read_bytes() == before


def entered(chromium: Any, site: Site, name: str, size: str) -> Watch:
    """Return the view of health, logged in."""
    result = Watch(chromium, f"http://127.0.0.1:{site.port}/login", size)
    result.page.fill("input[name=name]", name)
    result.page.fill("input[name=password]", PASSWORD)
    result.page.keyboard.press("Enter")
    result.page.wait_for_selector('body[data-link="record"]')
    result.page.click("#tab-health")
    result.page.wait_for_selector("#actions tbody tr")
    return result


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_users_are_managed_by_the_keyboard(chromium: Any, site: Site, shots: Path, size: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="pip install 'edge-ad[test]'")
    result, name = entered(chromium, site, "admin-1", size), f"emil-{size}"
    page = result.page
    rows = "[...document.querySelectorAll('#users tbody tr')].map(({cells}) => cells[0].textContent + ' ' + cells[1].textContent)"

    def check(shot: str) -> None:
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        assert axe.Axe().run(page).response["violations"] == []
        page.screenshot(path=shots / f"users-{shot}-{size}.png", full_page=shot == "list")

    wait(page, f"{rows}.includes('admin-1 admin')")
    check("list")
    assert page.locator("#users tr", has_text="admin-1").get_by_role("button").count() == 1, "oneself: the password alone"
    page.focus("#users-add")
    page.keyboard.press("Enter")
    for text in (name, "e", "correct horse 2", "correct horse 3"):  # e: engineer
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#users-wrong:not([hidden])")
    assert page.inner_text("#users-wrong") == "The two passwords differ."
    check("dialog")
    page.keyboard.press("Control+a")
    page.keyboard.type("correct horse 2")
    page.keyboard.press("Enter")
    wait(page, f"{rows}.includes('{name} engineer')")
    assert page.input_value("#users-password") == "", "it is kept nowhere"
    page.focus(f'[aria-label="Role … of {name}"]')
    page.keyboard.press("Enter")
    page.focus("#users-role")
    page.keyboard.press("o")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    wait(page, f"{rows}.includes('{name} operator')")
    page.focus(f'[aria-label="Remove … of {name}"]')
    page.keyboard.press("Enter")
    assert page.inner_text("#users-dialog-title") == f"Remove {name}?"
    page.focus("#users-yes")
    page.keyboard.press("Enter")
    wait(page, f"!{rows}.some((row) => row.startsWith('{name}'))")
    result.close()
    assert result.errors == []
    assert trail(site)[-3:] == [("admin-1", f"{name} {text}") for text in ("added as engineer", "is operator now", "removed")]


@pytest.mark.slow
def test_others_see_no_users(chromium: Any, site: Site) -> None:
    result = entered(chromium, site, "engineer-1", "wide")
    assert not result.page.is_visible("#users-card")
    result.close()
    assert result.errors == []
