"""Login and logout, by users or by tokens, and the users that an admin manages; each goes into the audit trail."""

from __future__ import annotations

import re
import urllib.parse
from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse

from edge_ad.utils.text import storable
from edge_ad.web.access import COOKIE, SESSION_S, Access, Refusal
from edge_ad.web.record import Record, sender
from edge_ad.web.schemas import Done, Message, NewUser, UserPasswordRequest, UserRequest, UserRoleRequest, UserRow
from edge_ad.web.users import Users

ALERT = '<p class="alert" role="alert">{message}</p>'
MAX_FORM = 4096


def login_routes(access: Access, record: Record, page: str) -> APIRouter:
    """Return the routes; ``page`` is the HTML of all forms, each between two comments that name it."""
    router = APIRouter(include_in_schema=False)
    access.on_refused = lambda name, client: record.note("login refused", storable(name, 80), f"wrong password, from {client}")

    @router.get("/login")
    def login_page() -> Response:
        return _form(page, access, None, 200) if access.wanted else RedirectResponse("/", 303)

    @router.post("/login")
    async def login(request: Request) -> Response:
        form = _fields(await request.body())
        if not access.wanted:
            return RedirectResponse("/", 303)
        client = request.scope["client_name"]
        result = await run_in_threadpool(_entered, access, form, client)
        if isinstance(result, Refusal):
            return _form(page, access, result.message, result.status)
        await run_in_threadpool(record.note, "login", result[0], f"from {client}")
        answer = RedirectResponse("/", 303)
        answer.set_cookie(COOKIE, result[1], max_age=SESSION_S, httponly=True, samesite="strict", path="/")
        return answer

    @router.post("/logout")
    def logout(request: Request) -> Response:
        access.logout(request.headers.get("cookie", ""))
        identity = request.scope["identity"]
        if identity is not None and access.wanted:
            record.note("logout", identity.user or f"the {identity.role} token", f"from {request.scope['client_name']}")
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(COOKIE, httponly=True, samesite="strict", path="/")
        return answer

    return router


def _fields(body: bytes) -> dict[str, list[str]]:
    """Return the fields of a form; none for one that is too long or has too many."""
    try:
        return urllib.parse.parse_qs(body.decode("utf-8", "replace"), max_num_fields=4) if len(body) < MAX_FORM else {}
    except ValueError:
        return {}


def _form(page: str, access: Access, message: str | None, status: int) -> Response:
    """Return the page with the forms that this station takes."""
    for name, wanted in (("users", access.has_users), ("token", access.has_tokens)):
        if not wanted:
            page = re.sub(f"<!-- {name} -->.*?<!-- /{name} -->", "", page, flags=re.DOTALL)
    page = page.replace("<!-- alert -->", ALERT.format(message=message.capitalize()) if message else "")
    return Response(page, status, {"cache-control": "no-store"}, "text/html; charset=utf-8")


def _entered(access: Access, form: dict[str, list[str]], client: str) -> tuple[str, str] | Refusal:
    """Return who logs in by a form and the session's cookie, or why not."""
    name, password, token = (form.get(key, [""])[0] for key in ("name", "password", "token"))
    if not name:
        role = access.login(token.strip(), client)
        return role if isinstance(role, Refusal) else (f"the {role} token", access.session(role))
    user = access.login_user(name.strip(), password, client)
    return user if isinstance(user, Refusal) else (user.name, access.session(user))


def user_routes(access: Access, record: Record) -> APIRouter:
    """Return the routes; `roles.needed` lets nobody but an admin come here."""
    router = APIRouter(prefix="/api/users", tags=["users"], responses={404: {"model": Message}, 409: {"model": Message}})

    def managed() -> Users:
        if access.users is None:
            raise HTTPException(404, "no record is kept, and so no users: start with --store FILE")
        return access.users

    def done(request: Request, what: str) -> dict[str, str]:
        record.note("users", sender(request), what)
        return {"told": what}

    @router.get("", response_model=list[UserRow])
    def users() -> list[dict[str, Any]]:
        """Return all users by name."""
        return [{"name": user.name, "role": user.role} for _, user in sorted(managed().all().items())]

    @router.post("", response_model=Done)
    def add(wanted: NewUser, request: Request) -> dict[str, str]:
        """Add a user."""
        with access.hashing:
            return done(request, managed().add(wanted.name, wanted.role, wanted.password))

    @router.post("/role", response_model=Done)
    def set_role(wanted: UserRoleRequest, request: Request) -> dict[str, str]:
        """Give a user another role, which ends the sessions of before."""
        _other(request, wanted.name, "gives you another role")
        return done(request, managed().set_role(wanted.name, wanted.role))

    @router.post("/password", response_model=Done)
    def set_password(wanted: UserPasswordRequest, request: Request) -> dict[str, str]:
        """Give a user another password, which ends the sessions of before."""
        with access.hashing:
            return done(request, managed().set_password(wanted.name, wanted.password))

    @router.post("/remove", response_model=Done)
    def remove(wanted: UserRequest, request: Request) -> dict[str, str]:
        """Remove a user, whose sessions end."""
        _other(request, wanted.name, "removes you")
        return done(request, managed().remove(wanted.name))

    return router


def _other(request: Request, name: str, what: str) -> None:
    """Raise HTTPException 409 for oneself: so an admin who manages users over the network is always left."""
    if request.scope["identity"].user == name:
        raise HTTPException(409, f"you are logged in as {name}: another admin {what}, or `edge-ad users` on the station")
