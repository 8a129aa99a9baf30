"""Users of the dashboard: names, roles and hashed passwords, in a file that only the user of the station may read; and who may
do what, by user or by token.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import secrets
import stat
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from edge_ad.errors import BadInput
from edge_ad.utils.files import sync_folder
from edge_ad.utils.locks import lock_file

if TYPE_CHECKING:
    from argon2 import PasswordHasher

UserRole = Literal["operator", "engineer", "admin"]
USER_ROLES: tuple[UserRole, ...] = get_args(UserRole)
MIN_PASSWORD, MAX_PASSWORD = 10, 200
MAX_USERS = 500
LARGEST_FILE = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", re.ASCII)


@dataclass(frozen=True)
class User:
    """One user; ``version`` grows with every change of password or role and ends the sessions of before; it begins anywhere."""

    name: str
    role: UserRole
    password: str  # its hash (argon2id)
    version: int = 1


def users_path(store: Path) -> Path:
    """Return the users of a station: ``line.users.json`` beside ``line.sqlite``."""
    return store.with_suffix(".users.json")


@functools.cache
def hasher() -> PasswordHasher:
    """Return what hashes passwords: argon2id in one thread and 19 MiB, as OWASP recommends, because the line comes first.

    BadInput without its package.
    """
    try:
        import argon2
    except ImportError as error:
        raise BadInput("users of the dashboard need the package 'argon2-cffi': pip install 'edge-ad[line]'") from error
    return argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)


@functools.cache
def _no_password() -> str:
    """Return the hash of no user's password: an unknown name must take as long as a wrong password."""
    return str(hasher().hash(os.urandom(16).hex()))


def check_password(password: str) -> None:
    """Raise BadInput for a password that is too short or too long."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        allowed = f"{MIN_PASSWORD} to {MAX_PASSWORD} are allowed"
        raise BadInput(f"the password has {len(password)} characters: {allowed}; choose another one")


class Users:
    """The users in a file, read again whenever it changes; for any thread and process.

    BadInput for a file that others may read or that is damaged: then nobody may log in.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._read_at: tuple[int, int] | None = None
        self._users: dict[str, User] = {}

    @property
    def exist(self) -> bool:
        """Whether there is a file of users: from then on it takes a login."""
        return self.path.exists()

    def all(self) -> Mapping[str, User]:
        """Return the users by name."""
        with self._lock:
            try:
                status = os.stat(self.path)
            except OSError:
                self._read_at, self._users = None, {}
                return self._users
            if self._read_at != (status.st_ino, status.st_mtime_ns):
                self._users = self._parsed(status)
                self._read_at = status.st_ino, status.st_mtime_ns
            return self._users

    def verify(self, name: str, password: str) -> User | None:
        """Return the user whose password this is; as long for an unknown name as for a wrong password."""
        from argon2.exceptions import InvalidHashError, VerificationError

        user = self.all().get(name)
        with contextlib.suppress(VerificationError, InvalidHashError):
            hasher().verify(user.password if user is not None else _no_password(), password[: MAX_PASSWORD + 1])
            return user
        return None

    def add(self, name: str, role: str, password: str) -> str:
        """Add a user and return what was done; BadInput for a name that is taken or no name, another role, or a bad password."""
        if _NAME.fullmatch(name) is None:
            raise BadInput(f"the name is {name!r:.80}: write up to 40 letters, digits, points, dashes and underscores")
        check_password(password)
        # Not 1 again for a name that was taken before: the sessions of that one would go on.
        user = User(name, checked_role(role), hasher().hash(password), 1 + secrets.randbelow(2**40))
        with self._changing() as users:
            if name in users:
                raise BadInput(f"there is a user {name} already: `edge-ad users password {name}` changes the password")
            if not users and user.role != "admin":
                raise BadInput(f"the first user must be an admin, or nobody could manage the others: give {name} --role admin")
            if len(users) >= MAX_USERS:
                raise BadInput(f"there are {MAX_USERS} users, and no more are allowed: remove one by `edge-ad users remove NAME`")
            users[name] = user
        return f"{name} added as {role}"

    def remove(self, name: str) -> str:
        """Remove a user, and with the last one the file; return what was done.

        BadInput for an unknown one, and for the last admin of several.
        """
        with self._changing() as users:
            known(users, name)
            del users[name]
        return f"{name} removed"

    def set_password(self, name: str, password: str) -> str:
        """Give a user another password, which ends the sessions of before; return what was done."""
        check_password(password)
        hashed = hasher().hash(password)
        with self._changing() as users:
            user = known(users, name)
            users[name] = replace(user, password=hashed, version=user.version + 1)
        return f"password of {name} changed"

    def set_role(self, name: str, role: str) -> str:
        """Give a user another role, which ends the sessions of before; return what was done."""
        wanted = checked_role(role)
        with self._changing() as users:
            user = known(users, name)
            users[name] = replace(user, role=wanted, version=user.version + 1)
        return f"{name} is {role} now"

    @contextlib.contextmanager
    def _changing(self) -> Any:
        """Give the users to change, and write them as one file; one process at a time."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        release = lock_file(
            self.path.with_name(f"{self.path.name}.lock"), f"the users {self.path}", "another command changes them: try again"
        )
        try:
            users = dict(self.all())
            yield users
            if users and not any(user.role == "admin" for user in users.values()):
                raise BadInput("no admin would be left, and nobody could manage users: make another one an admin first")
            if users:
                self._write(users)
            else:
                self.path.unlink()
        finally:
            release()

    def _write(self, users: Mapping[str, User]) -> None:
        try:
            handle, temporary = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)  # mode 0600
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    json.dump({"users": [asdict(user) for user in users.values()]}, stream, indent=1)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.replace(temporary, self.path)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
            sync_folder(self.path.parent)
        except OSError as error:
            reason = f"{error.strerror}; free some space, or give the folder to this user"
            raise BadInput(f"the users {self.path} cannot be written: {reason}") from error

    def _parsed(self, status: os.stat_result) -> dict[str, User]:
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise BadInput(f"the users {self.path} have the mode {mode:04o}: others may read them; `chmod 600 {self.path}`")
        try:
            with self.path.open("rb") as stream:
                entries = json.loads(stream.read(LARGEST_FILE))["users"]
            users = [User(one["name"], checked_role(one["role"]), one["password"], int(one["version"])) for one in entries]
            if not all(isinstance(text, str) for user in users for text in (user.name, user.password)):
                raise ValueError("no user")
        except (OSError, ValueError, KeyError, TypeError, BadInput) as error:
            raise BadInput(f"the users {self.path} cannot be read: bring the file back, or remove it and add them again") from error
        return {user.name: user for user in users}


def known(users: Mapping[str, User], name: str) -> User:
    """Return a user by name; BadInput for an unknown one."""
    if name not in users:
        raise BadInput(f"there is no user {name!r:.80}: there are {', '.join(sorted(users)) or 'none'}")
    return users[name]


def checked_role(role: str) -> UserRole:
    """Return a role; BadInput for any other text."""
    for one in USER_ROLES:
        if role == one:
            return one
    raise BadInput(f"the role is {role!r:.80}: choose one of {', '.join(USER_ROLES)}")


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
