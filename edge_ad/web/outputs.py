"""The states of outputs on their way to pages and metrics: bounded, without secrets, and without paths of this machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from edge_ad.outputs.states import ChannelState
from edge_ad.redaction import redact
from edge_ad.text import storable

LONGEST_NAME = 200
LONGEST_FAULT = 500
# Folders of an absolute path, in quotes (with blanks) and without; not what follows the host of a URL.
_QUOTED = re.compile(r"(?<=['\"])/[^'\"]*/")
_PLAIN = re.compile(r"(?<![\w/…])/(?:[^\s'\"/]+/)+")


def outputs_told(states: Sequence[ChannelState]) -> list[dict[str, Any]]:
    """Return the outputs as plain values; names are unique, because a metric must not come twice with one label."""
    names = [_name(state.name) for state in states]
    seen: Counter[str] = Counter()
    found = []
    for state, name in zip(states, names, strict=True):
        seen[name] += 1
        found.append(
            {
                "name": name if names.count(name) == 1 else f"{name} ({seen[name]})",
                "up": state.up,
                "fault": None if state.fault is None else storable(without_folders(redact(state.fault)), LONGEST_FAULT),
                "faults": state.faults,
                "since": state.since,
            }
        )
    return found


def without_folders(text: str) -> str:
    """Return ``text`` with an ellipsis in place of the folders of absolute paths."""
    return _PLAIN.sub("…/", _QUOTED.sub("…/", text))


def _name(name: str) -> str:
    if name.startswith("file:/"):
        name = f"file:…/{name.rpartition('/')[2]}"
    return storable(redact(name), LONGEST_NAME)
