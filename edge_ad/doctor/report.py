"""The report of the doctor as JSON: the first half of what an owner sends; `edge-ad benchmark --json` is the second."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from edge_ad.doctor.facts import machine_facts, package_facts
from edge_ad.doctor.finding import Finding, to_json
from edge_ad.doctor.machine import Machine
from edge_ad.doctor.tries import Tried


def report(machine: Machine, findings: Sequence[Finding], tried: Sequence[Tried]) -> dict[str, Any]:
    """Return ``ready``, ``exit_code``, ``checks``, ``tried``, ``machine``, ``packages`` and ``made`` (UTC).

    It holds no host name, no user and no password; cameras appear as in events.
    """
    return {
        **to_json(findings),
        "tried": [one.to_json() for one in tried],
        "machine": machine_facts(machine),
        "packages": package_facts(machine.packages),
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
