"""`edge-ad users`: who may log in to the dashboard, and what each may do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import DEFAULT_STORE, Config

ACTIONS = ("list", "add", "remove", "password", "role")
ACTION = (
    "list; add NAME with --role; remove NAME; password NAME: set another one; role NAME with --role. Passwords are asked for, or "
    "read from a pipe."
)
ROLE = "operator (marks, pause, challenge, product), engineer (thresholds, overrides and all of that) or admin (users too)."


@options_of()
def command(
    settings: Config,
    *,
    action: Annotated[str, typer.Argument(help=ACTION)] = "list",
    name: Annotated[str | None, typer.Argument(help="The user.")] = None,
    role: Annotated[str | None, typer.Option(help=ROLE)] = None,
    store: Annotated[Path | None, typer.Option(help="The store of the station [`store` of [run], else runs/line.sqlite].")] = None,
) -> None:
    """Manage the users of the dashboard; once there is one, the dashboard takes a login."""
    from edge_ad.errors import BadInput
    from edge_ad.web.users import Users, checked_role, users_path

    path = store or settings.run.store or DEFAULT_STORE
    users = Users(users_path(path))
    if action not in ACTIONS:
        raise BadInput(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")
    if (name is None) != (action == "list"):
        raise BadInput(f"`edge-ad users {action}` {'takes no name' if name is not None else 'needs the name of a user'}")
    if (role is None) == (action in ("add", "role")):
        raise BadInput("--role goes with `users add` and `users role`, which need it")
    if name is None:
        for user in users.all().values():
            typer.echo(f"{user.name:<40} {user.role}")
        if not users.all():
            typer.echo("there are no users: `edge-ad users add NAME --role admin` makes the first one")
        return
    more = ""
    if action == "add":
        checked_role(str(role))
        done = users.add(name, str(role), _asked_password(name))
    elif action == "remove":
        done = users.remove(name)
        more = "" if users.exist else ", and with it the file: no login is taken any more"
    elif action == "password":
        done = users.set_password(name, _asked_password(name))
    else:
        done = users.set_role(name, str(role))
    _note(path, done, more)


def _asked_password(name: str) -> str:
    """Ask for a password twice, or read one line where nobody sits at the terminal; it is never on the command line."""
    from edge_ad.errors import BadInput

    if sys.stdin is not None and sys.stdin.isatty():
        return str(typer.prompt(f"password of {name}", hide_input=True, confirmation_prompt=True))
    password = "" if sys.stdin is None else sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise BadInput("no password was given: type it at a terminal, or pipe it in as one line")
    return password


def _note(store: Path, what: str, more: str) -> None:
    """Put a change of users into the audit trail, and print it."""
    from edge_ad.store.actions import Action, action_log
    from edge_ad.utils.text import user_name

    recorded = action_log(store).keep(Action("users", user_name(), "command", what))
    typer.echo(f"{what}{more}{'' if recorded else '; this is not in the audit trail, which cannot be written'}")
