"""Who may do what in the dashboard: identities by token or by user, and what each request needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from edge_ad.web.users import UserRole

Role = Literal["full", "read", "operator", "engineer", "admin"]
TokenRole = Literal["full", "read"]
TOKEN_ROLES: tuple[TokenRole, ...] = get_args(TokenRole)
Permission = Literal["operate", "engineer", "users"]

GRANTED: Mapping[Role, frozenset[Permission]] = {
    "read": frozenset(),
    "operator": frozenset({"operate"}),
    "engineer": frozenset({"operate", "engineer"}),
    "admin": frozenset({"operate", "engineer", "users"}),
    "full": frozenset({"operate", "engineer"}),  # a token: as before there were users
}
# What a change needs by its path; what is not named here needs an engineer.
OPERATE = ("/api/alarms/", "/api/events/", "/api/pause", "/api/resume", "/api/product", "/api/challenge")
ENGINEER = ("/api/challenge/override",)
LOWEST: Mapping[Permission, UserRole] = {"operate": "operator", "engineer": "engineer", "users": "admin"}


@dataclass(frozen=True)
class Identity:
    """Who sends a request: the role, and the name of a user, None where a token or nothing was asked for."""

    role: Role
    user: str | None = None

    @property
    def may(self) -> frozenset[Permission]:
        """What this one may do."""
        return GRANTED[self.role]


def needed(method: str, path: str) -> Permission | None:
    """Return what a request needs, None for one that only looks."""
    if path == "/api/users" or path.startswith("/api/users/"):
        return "users"
    if method in ("GET", "HEAD"):
        return None
    if path in ENGINEER:
        return "engineer"
    return "operate" if any(path == one or path.startswith(f"{one.rstrip('/')}/") for one in OPERATE) else "engineer"


def why_refused(identity: Identity, permission: Permission) -> str:
    """Return the sentence that refuses a request."""
    if identity.role == "read":
        return "this token may look, not change anything"
    if identity.role == "full":
        return "a token cannot manage users: log in as an admin, or use `edge-ad users`"
    lowest = LOWEST[permission]
    return f"{identity.user} is {_an(identity.role)} and may not do this: it takes {_an(lowest)}"


def _an(role: str) -> str:
    return f"{'an' if role[0] in 'aeio' else 'a'} {role}"
