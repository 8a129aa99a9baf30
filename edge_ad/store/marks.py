"""What a person says about an event: the part was good, or it was bad."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from edge_ad.errors import BadInput, DeviceFault
from edge_ad.store.journal import journalise, mark_line
from edge_ad.store.reader import MARKS, Mark
from edge_ad.store.recovery import fact
from edge_ad.store.schema import connect


def set_mark(path: Path, event_id: str, mark: Mark | None, by: str) -> None:
    """Mark an event as good or bad, or take its mark away (None), in a short transaction of its own.

    ``by`` says who did. Waits up to 5 s for a process that is writing. BadInput for another mark, an unknown event and
    a file that is no store; DeviceFault when the disk refuses.
    """
    if mark is not None and mark not in MARKS:
        raise BadInput(f"the mark is {mark!r}: allowed are {', '.join(MARKS)} and none")
    if not path.exists():
        raise BadInput(f"there is no store at {path}: name the file of `edge-ad run --store`")
    now = time.time()
    connection = connect(path)
    try:
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT 1 FROM event WHERE id = ?", (event_id,)).fetchone():
            raise BadInput(f"there is no event {event_id!r} in {path}: `edge-ad events` lists them")
        connection.execute("DELETE FROM mark WHERE event = ?", (event_id,))
        if mark is not None:
            connection.execute("INSERT INTO mark VALUES (?, ?, ?, ?)", (event_id, mark, by, now))
        evidence = fact(connection, "evidence")
        if evidence is not None:  # before the commit: a mark that is told as stored is in both places
            journalise(path.parent / evidence, [mark_line(event_id, mark, by, now)])
        connection.execute("COMMIT")
    except (sqlite3.Error, OSError) as error:
        raise DeviceFault(f"the mark cannot be stored in {path}: {error}; try again") from error
    finally:
        connection.close()  # an open transaction ends with it, undone
