"""The machine as the checks see it: a file tree, and the few facts that no file holds."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_ad.doctor.clock_state import kernel_clock
from edge_ad.doctor.packages import Package, probe


@dataclass(frozen=True)
class Machine:
    """A machine under ``root``, so that a recorded tree is examined by the same code as the real one.

    ``python`` is (major, minor); ``packages`` tells of every package that matters; ``free_disk`` is in bytes, for the
    working folder; ``clock`` is what the kernel says of its clock (True: disciplined), None where it cannot be asked.
    """

    root: Path
    python: tuple[int, int]
    packages: Mapping[str, Package]
    free_disk: int
    clock: bool | None

    @classmethod
    def here(cls) -> Machine:
        """Return the machine that this runs on."""
        python = (sys.version_info.major, sys.version_info.minor)
        return cls(Path("/"), python, probe(), shutil.disk_usage(".").free, kernel_clock())

    def text(self, path: str) -> str:
        """Return the content of a file without blanks and NULs at its ends; empty when it cannot be read.

        sysfs may refuse a read even to root: a sensor that is switched off answers EAGAIN.
        """
        try:
            return (self.root / path).read_bytes().decode(errors="replace").strip("\0 \n\t")
        except OSError:
            return ""

    def number(self, path: str) -> int | None:
        """Return the whole number in a file; None when there is none."""
        try:
            return int(self.text(path))
        except ValueError:
            return None

    def exists(self, path: str) -> bool:
        """Whether a file, folder or link is there; links need not lead anywhere."""
        return (self.root / path).exists() or (self.root / path).is_symlink()

    def find(self, pattern: str) -> list[str]:
        """Return the paths that fit a pattern, relative to the root, sorted."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.glob(pattern))
