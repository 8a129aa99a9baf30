"""The names of gpiod.line that a channel uses."""

from __future__ import annotations

import enum


class Direction(enum.Enum):
    INPUT = 2
    OUTPUT = 3


class Value(enum.Enum):
    INACTIVE = 0
    ACTIVE = 1


class Edge(enum.Enum):
    RISING = 2
    BOTH = 4
