"""What a graph of a bundle may not do: run for as long as it likes.

ONNX is a protocol buffer; only operators are read, tensors are passed over, so that nothing needs the package ``onnx``.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge_ad.errors import BadInput

_GRAPH, _FUNCTION = 7, 25  # of a model
_NODE, _FUNCTION_NODE = 1, 7  # of a graph, of a function
_TYPE, _ATTRIBUTE = 4, 5  # of a node
_SUBGRAPH, _SUBGRAPHS = 6, 11  # of an attribute
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5


def check_operators(graph: bytes, where: str) -> None:
    """Raise BadInput for a graph with control flow (Loop, Scan, If), which may never end, and for bytes that are no graph."""
    try:
        for name, has_graph in _operators(memoryview(graph)):
            if has_graph:
                raise BadInput(
                    f"{where} has the operator {name[:40]!r}, which runs a graph inside it and may never end; the graphs that "
                    "`edge-ad train` writes have none: copy or train the bundle again"
                )
    except (IndexError, ValueError) as error:
        raise BadInput(f"{where} is no ONNX graph ({error}); copy or train the bundle again") from error


def _operators(model: memoryview) -> Iterator[tuple[str, bool]]:
    for number, value in _fields(model):
        if number == _GRAPH:
            yield from _nodes(value, _NODE)
        elif number == _FUNCTION:
            yield from _nodes(value, _FUNCTION_NODE)


def _nodes(graph: memoryview, field: int) -> Iterator[tuple[str, bool]]:
    for number, node in _fields(graph):
        if number != field:
            continue
        name, has_graph = "", False
        for inner, value in _fields(node):
            if inner == _TYPE:
                name = bytes(value).decode("utf-8", "replace")
            elif inner == _ATTRIBUTE:
                has_graph |= any(one in (_SUBGRAPH, _SUBGRAPHS) for one, _ in _fields(value))
        yield name, has_graph


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the bytes of every field with a length; numbers are passed over."""
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        kind = key & 7
        if kind == _VARINT:
            _, place = _varint(message, place)
        elif kind in (_EIGHT_BYTES, _FOUR_BYTES):
            place += 8 if kind == _EIGHT_BYTES else 4
        elif kind == _LENGTH:
            size, place = _varint(message, place)
            if place + size > len(message):
                raise ValueError("a field is longer than what holds it")
            yield key >> 3, message[place : place + size]
            place += size
        else:
            raise ValueError(f"wire type {kind}")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        octet = message[place]
        value |= (octet & 127) << shift
        place, shift = place + 1, shift + 7
        if octet < 128:
            return value, place
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
