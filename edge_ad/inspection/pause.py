"""The pause of a line: who asked for it and why, kept beside the store, so that only a resume ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edge_ad.errors import BadInput
from edge_ad.inspection.requests import Request
from edge_ad.store.actions import Action, ActionLog

if TYPE_CHECKING:  # a command needs neither OpenCV nor engines
    from edge_ad.inspection.judge import InspectionResult

PAUSED = "paused"  # the first word of the reason of what came by in a pause
KINDS = ("pause", "resume")
PLC = "plc"


class Pause:
    """Whether the line is paused. The outputs hear of a pause first, then the disk; of a resume the other way round.

    ``show`` brings it out; ``log`` keeps it (None: for this run alone). Safe from any thread.
    """

    def __init__(
        self,
        log: ActionLog | None,
        show: Callable[[bool], None] = lambda paused: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._show = show
        self._clock = clock
        self._resumed_at = float("-inf")
        self._lock = threading.Lock()
        last = None if log is None else log.last(KINDS)
        self._action = last if last is not None and last.kind == "pause" else None
        self._show(self._action is not None)

    @property
    def action(self) -> Action | None:
        """The pause that stands, None while the line runs."""
        return self._action

    def reason(self, seen_at: float = float("inf")) -> str | None:
        """Return why nothing is judged that was seen then (monotonic seconds), None while the line runs: what was seen before
        the line went on may show the hands or the cloth of the pause.
        """
        action = self._action
        if action is not None:
            return f"{PAUSED}: {action.describe()}"
        return f"{PAUSED}: seen before the line went on" if seen_at < self._resumed_at else None

    def withhold(self, results: list[InspectionResult]) -> list[InspectionResult]:
        """Return the results as they are, in a pause NONE in the place of every verdict."""
        reason = self.reason()
        if reason is None:
            return results
        return [result if result.event.verdict == "NONE" else _withheld(result, reason) for result in results]

    def pause(self, request: Request) -> str:
        """Pause the line; BadInput where it is paused already or no reason is given."""
        action = _action(request)
        if not action.reason:
            raise BadInput("a pause needs a reason: say what is done, such as --reason 'cleaning the lens'")
        with self._lock:
            if self._action is not None:
                raise BadInput(f"the line is paused already, {self._action.describe()}: `edge-ad resume` ends that")
            self._action = action
            self._show(True)
            recorded = self._keep(action)
        return (
            f"the line is paused, {action.describe()}{'' if recorded else '; this cannot be stored, so a restart ends it'}"
        )

    def resume(self, request: Request) -> str:
        """End the pause; BadInput where there is none, or a PLC asks and a person has paused."""
        action = _action(request)
        with self._lock:
            standing = self._action
            if standing is None:
                raise BadInput("the line is not paused: nothing to resume")
            if request.origin == PLC and standing.origin != PLC:
                raise BadInput(f"a PLC cannot end the pause of a person, {standing.describe()}: `edge-ad resume` does")
            recorded = self._keep(action)
            self._resumed_at = self._clock()
            self._action = None
            self._show(False)
        return f"the line goes on, {action.describe()}{'' if recorded else '; this cannot be stored, so a restart comes up paused'}"

    def to_json(self) -> dict[str, Any] | None:
        """Return the pause for a page, None while the line runs."""
        action = self._action
        return (
            None
            if action is None
            else {"by": action.by, "origin": action.origin, "reason": action.reason, "since": action.time}
        )

    def _keep(self, action: Action) -> bool:
        """Store an action where there is a log; False where it cannot be."""
        return self._log is not None and self._log.keep(action)


def _action(request: Request) -> Action:
    if not request.by:
        raise BadInput(f"who asks for the {request.kind}? Give a name by --by NAME")
    return Action(request.kind, request.by, request.origin, request.value("reason"))


def _withheld(result: InspectionResult, reason: str) -> InspectionResult:
    event = replace(result.event, verdict="NONE", score=None, z={}, reason=reason, zone=None, peak=None)
    return replace(result, event=event, inference=None)
