"""Whether an output works, since when, and how often it did not: the same for outputs of the guard and slow ones."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ChannelState:
    """The state of one output in this run.

    ``proven``: it has worked once. ``fault`` says why it does not work now, ``faults`` counts how often that began.
    ``since`` is the second (since 1970 UTC) from which on it works, or does not; None before either is known.
    """

    name: str
    proven: bool = False
    fault: str | None = None
    faults: int = 0
    since: float | None = None

    @property
    def up(self) -> bool:
        """Whether it works now."""
        return self.proven and self.fault is None

    def after(self, fault: str | None, now: float) -> ChannelState:
        """Return the state at second ``now``, when the output failed with ``fault`` or (None) worked."""
        began = fault is not None and self.fault is None
        changed = began or (fault is None and not self.up)
        return replace(
            self,
            proven=self.proven or fault is None,
            fault=fault,
            faults=self.faults + began,
            since=now if changed else self.since,
        )
