"""The pages: files that are read once at the start, so that no path of a request ever reaches the disk; and the login."""

from __future__ import annotations

import hashlib
import urllib.parse
from dataclasses import dataclass
from importlib import resources

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.responses import RedirectResponse

from edge_ad.web.access import COOKIE, SESSION_S, Access, Refusal

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
ALERT = '<p class="alert" role="alert">{told}</p>'


@dataclass(frozen=True)
class Page:
    """A file of the dashboard."""

    kind: str
    data: bytes
    tag: str


def load_pages() -> dict[str, Page]:
    """Return all files of the dashboard by name."""
    found: dict[str, Page] = {}
    for file in resources.files("edge_ad.web").joinpath("static").iterdir():
        suffix = file.name.rpartition(".")[2]
        if suffix in KINDS:
            data = file.read_bytes()
            found[file.name] = Page(KINDS[suffix], data, f'"{hashlib.sha256(data).hexdigest()[:16]}"')
    return found


def page_routes(access: Access) -> APIRouter:
    """Return the routes of pages, login and logout; they are not part of the API."""
    router = APIRouter(include_in_schema=False)
    pages = load_pages()

    @router.get("/")
    def index(request: Request) -> Response:
        return _page(pages["index.html"], request)

    @router.get("/static/{name}")
    def static(name: str, request: Request) -> Response:
        if name not in pages or name.endswith(".html"):
            raise HTTPException(404, "there is no such file")
        return _page(pages[name], request)

    @router.get("/login")
    def login_page() -> Response:
        return _login(pages["login.html"], None, 200) if access.wanted else RedirectResponse("/", 303)

    @router.post("/login")
    async def login(request: Request) -> Response:
        body = (await request.body()).decode("utf-8", "replace")
        token = urllib.parse.parse_qs(body, max_num_fields=4).get("token", [""])[0] if len(body) < 4096 else ""
        if not access.wanted:
            return RedirectResponse("/", 303)
        found = access.login(token.strip(), request.scope["client_name"])
        if isinstance(found, Refusal):
            return _login(pages["login.html"], found.told, found.status)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, access.session(found), max_age=SESSION_S, httponly=True, samesite="strict", path="/")
        return answer

    @router.post("/logout")
    def logout(request: Request) -> Response:
        access.logout(request.headers.get("cookie", ""))
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")
        return answer

    return router


def _page(page: Page, request: Request) -> Response:
    headers = {"cache-control": "no-cache", "etag": page.tag}
    if request.headers.get("if-none-match") == page.tag:
        return Response(status_code=304, headers=headers)
    return Response(page.data, media_type=page.kind, headers=headers)


def _login(page: Page, told: str | None, status: int) -> Response:
    alert = ALERT.format(told=told.capitalize()) if told else ""
    text = page.data.decode().replace("<!-- alert -->", alert)
    return Response(text, status, {"cache-control": "no-store"}, page.kind)
