"""A board with one chip of 64 lines, for tests and trials: what its lines show, its inputs, and faults of the kernel."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from tests.outputs.standin.gpiod import EVENT, FAULTS

CHIP = "gpio:///dev/gpiochip0"
STANDIN = Path(__file__).parent / "standin"


class Board:
    """Lines in the files of a folder; give ``environment`` to the process that drives them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "levels").write_bytes(bytes(64))
        for fault in FAULTS:
            (folder / fault).write_text("0")
        if not (folder / "edges").exists():
            os.mkfifo(folder / "edges")
        self._edges = os.open(folder / "edges", os.O_RDWR | os.O_NONBLOCK)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a process finds this board in the place of the kernel's."""
        path = os.pathsep.join([str(STANDIN), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        return {"STANDIN_GPIO": str(self._folder), "PYTHONPATH": path}

    def level(self, pin: int) -> bool:
        """What a meter at the pin shows: a line that nobody holds is at rest."""
        return self._held(pin) and bool((self._folder / "levels").read_bytes()[pin])

    def _held(self, pin: int) -> bool:
        try:
            lock = os.open(self._folder / f"line{pin}", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def force(self, pin: int, value: bool) -> None:
        """Change a level behind the back of whoever drives it; one that nobody drives stays at rest."""
        if not self._held(pin):
            return
        with open(self._folder / "levels", "r+b", buffering=0) as levels:
            os.pwrite(levels.fileno(), bytes([value]), pin)

    def edge(self, pin: int, rising: bool = True, at: float | None = None) -> None:
        """Give an edge to an input, stamped by the kernel at monotonic second ``at`` (now)."""
        moment = time.monotonic() if at is None else at
        os.write(self._edges, EVENT.pack(pin, int(rising), int(moment * 1e9)))

    def fail(self, what: str, times: int = 1) -> None:
        """Let the next calls of a sort fail with EIO (-1: all of them; 0: none)."""
        (self._folder / what).write_text(str(times))

    def close(self) -> None:
        """Let go."""
        os.close(self._edges)
