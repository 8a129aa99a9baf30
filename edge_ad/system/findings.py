"""What one check found: ok, warn or fail, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail"]

MISSING = 2
UNWELL = 3


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: the name of the check, its status, what was found, and what to do unless it is ok.

    ``code`` is the exit code that a fail asks for: 2 something needed is missing or too old, 3 the device is unwell.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    code: int = MISSING

    def __post_init__(self) -> None:
        if (self.status == "ok") == bool(self.advice):
            raise ValueError(f"{self.name}: an advice goes with warn and fail, and only with them")


def exit_code(findings: Sequence[Finding]) -> int:
    """Return 0 when nothing fails, else the smallest code of what fails."""
    return min((finding.code for finding in findings if finding.status == "fail"), default=0)


def verdict(findings: Sequence[Finding]) -> str:
    """Return the last line: how many are ok, warn and fail, and what that means."""
    counts = {status: sum(finding.status == status for finding in findings) for status in ("ok", "warn", "fail")}
    word = "not ready" if counts["fail"] else "ready"
    return f"{word}: {counts['ok']} ok, {counts['warn']} to look at, {counts['fail']} failed"


def lines(findings: Sequence[Finding]) -> list[str]:
    """Return what is printed: one line a check, and under it what to do."""
    width = max(len(finding.name) for finding in findings)
    messages = []
    for finding in findings:
        messages.append(f"{finding.status:<4}  {finding.name:<{width}}  {finding.found}")
        if finding.advice:
            messages.append(f"{'':<{width + 6}}  -> {finding.advice}")
    return [*messages, verdict(findings)]


def to_json(findings: Sequence[Finding]) -> dict[str, object]:
    """Return the same as JSON values: ``ready``, ``exit_code`` and ``checks``."""
    code = exit_code(findings)
    checks = [{key: value for key, value in asdict(finding).items() if key != "code"} for finding in findings]
    return {"ready": code == 0, "exit_code": code, "checks": checks}
