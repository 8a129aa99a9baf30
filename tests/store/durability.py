"""Kills and power cuts for a process that writes a store, and what must hold afterwards."""

from __future__ import annotations

import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_ad.store import Store
from edge_ad.store.journal import files, parse

ROOT = Path(__file__).parents[2]
SECTOR = 512
CALLS = "openat,close,write,pwrite64,ftruncate,fsync,fdatasync,rename,unlink,mkdir,lseek"


def writer(folder: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "tests.store.writer", str(folder), *map(str, arguments)]


def faults(folder: Path, told: set[str]) -> list[str]:
    """Open what is left of a store as `edge-ad run` would, and return what is wrong with it: nothing, it should be."""
    path, evidence = folder / "line.sqlite", folder / "line.evidence"
    if not path.exists():
        return [f"no store, {len(told)} events told"] if told else []
    store = Store(path, evidence=evidence)
    results = [] if store.fault is None else [store.fault]
    results += [f"damaged: {moved.name}" for moved in folder.glob("*.damaged-*")]
    if not store.close(30.0):
        results.append("it does not close")
    with sqlite3.connect(path) as connection:
        rows = {row for (row,) in connection.execute("SELECT id FROM event")}
        counted = connection.execute("SELECT coalesce(max(value), 0) FROM counter WHERE name = 'captured'").fetchone()[
            0
        ]
        newest = connection.execute("SELECT frame FROM event ORDER BY sequence DESC LIMIT 1").fetchone()
    connection.close()
    if told - rows:
        results.append(f"{len(told - rows)} committed events are missing")
    if newest and newest[0] != counted:
        results.append(f"the counter says {counted}, the last event {newest[0]}")
    entries = [parse(line) for name in files(evidence) for line in name.read_bytes().split(b"\n")]
    lines = {entry.event.id for entry in entries if entry.event is not None}
    if rows ^ lines:
        results.append(f"the journal lacks {len(rows - lines)} events and has {len(lines - rows)} too many")
    return results


def kill_once(folder: Path, rng: random.Random, longest_s: float = 0.15) -> set[str]:
    """Write, kill -9 at a random moment after the first commit, and return the events that were told."""
    process = subprocess.Popen(writer(folder, rng.choice((4, 40, 1000))), cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(rng.uniform(0.0, longest_s))
    process.send_signal(signal.SIGKILL)
    rest = process.stdout.read()
    process.wait()
    process.stdout.close()
    lines = (first + rest).decode().split("\n")
    return {line for line in lines[:-1] if len(line) == 36}


# --- power cuts ---


@dataclass
class File:
    """A file as the disk has it, and what was written since its last sync."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (place, data), or (length, None)

    def sync(self) -> None:
        for change in self.pending:
            _apply(self.durable, *change)
        self.pending.clear()

    def after_cut(self, rng: random.Random) -> bytes:
        """Return one of the contents that a power cut may leave: each write whole, torn at a sector, or not at all."""
        left = bytearray(self.durable)
        for place, data in self.pending:
            fate = rng.choice(("whole", "none", "torn"))
            if fate == "none":
                continue
            if data is not None and fate == "torn":
                data = data[: rng.randrange(0, len(data) + 1, SECTOR)]
            _apply(left, place, data)
        return bytes(left)


@dataclass
class Disk:
    """Replays system calls: what is on the disk, and what a power cut may still take."""

    root: str
    inodes: dict[int, File] = field(default_factory=dict)
    names: dict[str, int] = field(default_factory=dict)  # as the processes see them
    durable_names: dict[str, int] = field(default_factory=dict)
    pending_names: list[tuple[str, int | None]] = field(default_factory=list)
    open: dict[int, tuple[str, int | None, bool]] = field(default_factory=dict)  # path, inode (None: a folder), appends
    places: dict[int, int] = field(default_factory=dict)
    told: bytearray = field(default_factory=bytearray)

    def replay(self, call: Call) -> None:
        getattr(self, f"_{call.name}", lambda _: None)(call)

    def after_cut(self, rng: random.Random, folder: Path) -> set[str]:
        """Write what a power cut may leave into ``folder`` and return the events that had been told."""
        names = dict(self.durable_names)
        for path, inode in self.pending_names[: rng.randint(0, len(self.pending_names))]:
            _rename(names, path, inode)
        for path, inode in names.items():
            if not path.endswith("-shm"):  # shared memory, made anew by the first who opens
                target = folder / Path(path).relative_to(self.root)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(self.inodes[inode].after_cut(rng))
        return {line for line in self.told.decode().split("\n")[:-1] if len(line) == 36}

    def _openat(self, call: Call) -> None:
        path = call.text(1)
        if not path.startswith(self.root):
            return
        if "O_CREAT" in call.arguments and path not in self.names:
            inode = len(self.inodes)
            self.inodes[inode] = File()
            self._name(path, inode)
        inode_of = self.names.get(path)
        self.open[call.result] = (path, inode_of, "O_APPEND" in call.arguments)
        self.places[call.result] = 0
        if inode_of is not None and "O_TRUNC" in call.arguments:
            self.inodes[inode_of].pending.append((0, None))

    def _close(self, call: Call) -> None:
        self.open.pop(call.number(0), None)

    def _write(self, call: Call) -> None:
        if call.number(0) == 1:
            self.told += call.data(1)
            return
        _, file, appends = self._file(call)
        if file is not None:
            place = len(self._seen(file)) if appends else self.places[call.number(0)]
            file.pending.append((place, call.data(1)))
            self.places[call.number(0)] = place + len(call.data(1))

    def _pwrite64(self, call: Call) -> None:
        _, file, _ = self._file(call)
        if file is not None:
            file.pending.append((int(call.last()), call.data(1)))

    def _lseek(self, call: Call) -> None:
        if call.number(0) in self.open:
            self.places[call.number(0)] = call.result

    def _ftruncate(self, call: Call) -> None:
        _, file, _ = self._file(call)
        if file is not None:
            file.pending.append((int(call.last()), None))

    def _fsync(self, call: Call) -> None:
        path, file, _ = self._file(call)
        if file is not None:
            file.sync()
        elif path:
            kept = []
            for name, inode in self.pending_names:
                if name.rpartition("/")[0] == path:
                    _rename(self.durable_names, name, inode)
                else:
                    kept.append((name, inode))
            self.pending_names = kept

    _fdatasync = _fsync

    def _unlink(self, call: Call) -> None:
        if call.text(0) in self.names:
            self._name(call.text(0), None)

    def _rename(self, call: Call) -> None:
        if call.text(0) in self.names:
            self._name(call.text(1), self.names[call.text(0)])
            self._name(call.text(0), None)

    def _name(self, path: str, inode: int | None) -> None:
        _rename(self.names, path, inode)
        self.pending_names.append((path, inode))

    def _file(self, call: Call) -> tuple[str, File | None, bool]:
        path, inode, appends = self.open.get(call.number(0), ("", None, False))
        return path, None if inode is None else self.inodes[inode], appends

    @staticmethod
    def _seen(file: File) -> bytearray:
        seen = bytearray(file.durable)
        for change in file.pending:
            _apply(seen, *change)
        return seen


@dataclass(frozen=True)
class Call:
    """A system call as strace writes it; strings are in \\x escapes."""

    name: str
    arguments: str
    result: int

    def text(self, place: int) -> str:
        return self.data(place).decode()

    def data(self, place: int) -> bytes:
        strings = re.findall(r'"((?:\\x[0-9a-f]{2})*)"', self.arguments)
        return bytes.fromhex(strings[0 if len(strings) == 1 else place].replace("\\x", ""))

    def number(self, place: int) -> int:
        text = self.arguments.split(", ")[place]
        return int(text) if text.isdigit() else -1

    def last(self) -> str:
        return self.arguments.rpartition(", ")[2]


def record(folder: Path, trace: Path, pages: int, events: int) -> str | None:
    """Record the system calls of a writer; returns why that cannot be done here."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    command = ["strace", "-f", "-qq", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(trace)]
    done = subprocess.run([*command, *writer(folder, pages, events)], cwd=ROOT, capture_output=True, timeout=600)
    return None if done.returncode == 0 else f"strace may not trace here: {done.stderr.decode()[-200:]}"


def calls(trace: Path) -> Iterator[Call]:
    """Yield the calls that succeeded, in the order of their ends."""
    begun: dict[str, str] = {}
    with trace.open() as stream:
        for line in stream:
            process, _, rest = line.rstrip("\n").partition(" ")
            rest = rest.strip()
            if rest.endswith("<unfinished ...>"):
                begun[process] = rest.removesuffix("<unfinished ...>").rstrip()
                continue
            resumed = re.match(r"<\.\.\. \w+ resumed>(.*)", rest)
            if resumed:
                rest = begun.pop(process, "") + resumed.group(1)
            result = re.fullmatch(r"(\w+)\((.*)\)\s+= (\d+).*", rest)
            if result:
                yield Call(result.group(1), result.group(2), int(result.group(3)))


def power_cuts(
    root: Path, found: Sequence[Call], cuts: int, seed: int, work: Path
) -> Iterator[tuple[int, int, list[str]]]:
    """Cut the power at so many random calls; yields the place, how many events had been told, and what is wrong."""
    rng = random.Random(seed)
    disk = Disk(str(root))
    places = sorted(rng.sample(range(len(found)), min(cuts, len(found))))
    last = 0
    for number, place in enumerate(places):
        for call in found[last:place]:
            disk.replay(call)
        last = place
        folder = work / f"cut-{number}"
        folder.mkdir(parents=True)
        message = disk.after_cut(rng, folder)
        yield place, len(message), faults(folder, message)
        shutil.rmtree(folder)


def _apply(content: bytearray, place: int, data: bytes | None) -> None:
    length = place if data is None else place + len(data)
    if len(content) < length:
        content.extend(bytes(length - len(content)))
    if data is None:
        del content[place:]
    else:
        content[place : place + len(data)] = data


def _rename(names: dict[str, int], path: str, inode: int | None) -> None:
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode
