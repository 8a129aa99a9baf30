"""The record on disk: events, counters and alarms in SQLite."""

from __future__ import annotations

from edge_ad.store.rows import EventRow
from edge_ad.store.store import Store

__all__ = ["EventRow", "Store"]
