"""Frames from anywhere: sources behind one URI scheme, drivers and their restarts, the mailbox, image quality, capture.

Nothing here knows what an anomaly is. Used by ``inspection``, ``system``, ``deployment``, ``training`` and above.
"""
