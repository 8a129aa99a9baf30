"""Routes by which an admin manages the users of the dashboard; each change goes into the audit trail."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException, Request

from edge_ad.web.access import Access
from edge_ad.web.record import Record, sender
from edge_ad.web.schemas import Done, Message, NewUser, UserPasswordRequest, UserRequest, UserRoleRequest, UserRow
from edge_ad.web.users import Users


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
