"""Outputs to the line: the guard process that owns the signals, one file a channel, delivery of events.

The guard and what it imports need nothing but the standard library. Used by ``inspection``, ``web`` and above.
"""
