"""The record on disk: events, counters and alarms in SQLite, a journal and images beside it."""

from __future__ import annotations

from edge_ad.store.schema import StoredEvent, StoredImage
from edge_ad.store.store import Store

__all__ = ["Store", "StoredEvent", "StoredImage"]
