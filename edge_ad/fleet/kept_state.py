"""What a station must know after a restart: the desired state that it accepted last, how that went, and the releases in force."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_ad.errors import BadInput
from edge_ad.fleet.desired_state import Desired, Phase, Release
from edge_ad.utils.files import atomic_write

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Record:
    sequence: int = 0
    text: str | None = None
    phase: Phase = "idle"
    reason: str = ""
    active: dict[str, dict[str, Any]] = field(default_factory=dict)


class KeptState:
    """Keeps all of it in one file, replaced as a whole.

    ``fault`` says why the file cannot be read: nothing is accepted then, because sequences must not begin anew. The line goes on.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fault: str | None = None
        self._record = self._read()

    @property
    def sequence(self) -> int:
        """The sequence of the desired state that was accepted last, 0 before the first."""
        return self._record.sequence

    @property
    def phase(self) -> Phase:
        """How it went."""
        return self._record.phase

    @property
    def reason(self) -> str:
        """Why it went so."""
        return self._record.reason

    @property
    def unfinished(self) -> str | None:
        """The signed text of a desired state that is not over, None where nothing is to do."""
        return None if self._record.phase in ("active", "failed", "refused") else self._record.text

    def releases(self) -> dict[str, dict[str, Any]]:
        """Return number, name and hash of the release in force, by product."""
        names = ("number", "name", "sha256")
        return {product: {name: one[name] for name in names} for product, one in self._record.active.items()}

    def hashes(self) -> set[str]:
        """Return the hashes of the releases in force, and of those before them."""
        return {one["sha256"] for record in self._record.active.values() for one in (record, record["before"]) if one}

    def accept(self, desired: Desired) -> bool:
        """Keep a desired state, in the order of its sequence; False for the one that stands already.

        BadInput for one that is older, and for a second one of the same sequence.
        """
        record = self._record
        if self.fault is not None:
            raise BadInput(self.fault)
        if desired.sequence < record.sequence:
            standing = f"{record.sequence}, which stands here"
            raise BadInput(f"sequence {desired.sequence} by {desired.by} is older than {standing}: it is refused")
        if desired.sequence == record.sequence and desired.text != record.text:
            raise BadInput(
                f"two rollouts at once: sequence {desired.sequence} stands here already, and the one by {desired.by} came second: "
                "it is refused"
            )
        if desired.sequence == record.sequence:
            return False
        self._record = _Record(sequence=desired.sequence, text=desired.text, active=record.active)
        self._write()
        return True

    def end(self, phase: Phase, reason: str) -> None:
        """Keep how the accepted desired state went."""
        self._record.phase, self._record.reason = phase, reason
        self._write()

    def check_order(self, desired: Desired) -> None:
        """Refuse a release that is older than the one in force; BadInput."""
        active = self._record.active.get(desired.release.product)
        if active is not None and active["number"] > desired.release.number and not desired.allow_downgrade:
            raise BadInput(
                f"{desired.release.title} is older than release {active['number']}, which is in force: a downgrade needs "
                "--allow-downgrade (or `edge-ad fleet rollback`)"
            )

    def book(self, release: Release) -> None:
        """Keep that a release is in force, and which one was before it."""
        before = self.releases().get(release.product)
        if before is None or before["sha256"] != release.sha256:
            self._record.active[release.product] = {**release.to_json(), "before": before}
            self._write()

    def unbook(self, product: str) -> None:
        """Keep that the release before is in force again, or none."""
        before = self._record.active.pop(product, {}).get("before")
        if before is not None:
            self._record.active[product] = {**before, "before": None}
        self._write()

    def _read(self) -> _Record:
        try:
            record = json.loads(self._path.read_text(encoding="utf-8"))
            return _Record(**{name: record[name] for name in _Record.__dataclass_fields__ if name in record})
        except FileNotFoundError:
            return _Record()
        except (OSError, ValueError, TypeError) as error:
            what = f"{self._path}, which says what this station was asked for, cannot be read ({error})"
            self.fault = f"{what}: move it away to begin anew"
            return _Record()

    def _write(self) -> None:
        """Write the file; where the disk refuses, the broker is asked again after a restart."""
        if self.fault is not None:
            return  # what cannot be read is for a person to look at
        try:
            atomic_write(self._path, json.dumps(asdict(self._record), indent=1) + "\n")
        except BadInput as error:
            _log.error("fleet: %s", error)
