"""Files of zones: our own JSON, and polygons of labelme and of SVG drawings.

A drawing is text of strangers: its size is bounded, and XML that declares a document type, and so could declare entities, is
refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from edge_ad.errors import BadInput
from edge_ad.geometry.zones import KINDS, MAX_SIDE, MAX_ZONES, Zones, check_kind, parse_zones
from edge_ad.utils.files import atomic_write, read_regular

FORMAT, VERSION = "edge-ad zones", 1
LIMIT = 1 << 20  # bytes of a file
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_PATH = re.compile(r"([MmLlHhVvZz])|([A-Za-z])|" + _NUMBER.pattern)
_OTHER_SHAPES = ("circle", "ellipse", "polyline", "line", "use", "image")  # one that was left out would be missed by nobody
_HIDDEN = ("defs", "clipPath", "mask", "pattern", "symbol", "marker")
_LABEL = re.compile(r"(\w+)(?:\s*[=:x ]\s*(\d+(?:\.\d*)?))?(?:\s+(.*))?", re.DOTALL)


def read_zones(path: Path) -> Zones:
    """Return the zones in a file that ``write_zones`` wrote; BadInput for any other."""
    value = _read_json(path)
    if value.get("format") != FORMAT:
        raise BadInput(f"{path} does not say {FORMAT!r}: import a drawing with `edge-ad zones import`")
    if value.get("version") != VERSION:
        raise BadInput(
            f"{path} has version {value.get('version')!r:.40} of zones, and {VERSION} is known: upgrade edge-ad"
        )
    return parse_zones(value, str(path))


def write_zones(path: Path, zones: Zones) -> None:
    """Write zones as JSON."""
    atomic_write(path, json.dumps({"format": FORMAT, "version": VERSION, **zones.as_dict()}, indent=1) + "\n")


def import_zones(path: Path, kind: str = "ignore") -> Zones:
    """Return the zones in a file of labelme (.json) or an SVG drawing; shapes whose label names no kind are of ``kind``.

    A label begins with the kind, then of a sensitivity zone its factor, then a name: "ignore clock", "sensitivity 2 rim".
    BadInput for shapes that are no polygon, and for a drawing without polygons or without a size.
    """
    check_kind(kind, "--kind")
    if path.suffix.lower() == ".svg":
        size, shapes = _svg(path)
    elif path.suffix.lower() == ".json":
        size, shapes = _labelme(path)
    else:
        raise BadInput(f"{path} is neither .json of labelme nor .svg: save the drawing as one of them")
    if not shapes:
        raise BadInput(f"{path} holds no polygon: draw one, or name another file")
    entries = [_entry(label, points, kind) for label, points in shapes[: MAX_ZONES + 1]]
    return parse_zones({"width": size[0], "height": size[1], "zones": entries}, str(path))


Shape = tuple[str, list[list[float]]]


def _entry(label: str, points: list[list[float]], kind: str) -> dict[str, Any]:
    match = _LABEL.fullmatch(label.strip())
    known = match is not None and match[1] in KINDS
    if match is None or not known:
        name = "".join(letter for letter in label if letter.isprintable())[:100].strip()
        return {"kind": kind, "name": name, "points": points, **({"factor": 1.0} if kind == "sensitivity" else {})}
    rest = (match[3] or "").strip()
    if match[1] != "sensitivity":
        rest = f"{match[2] or ''} {rest}".strip()
    factor = {"factor": float(match[2])} if match[1] == "sensitivity" and match[2] else {}
    return {"kind": match[1], "name": rest[:100], "points": points, **factor}


def _read(path: Path) -> bytes:
    try:
        data = read_regular(path)
    except OSError as error:
        raise BadInput(
            f"cannot read the zones {path}: {error.strerror or error}; check its name and its rights"
        ) from error
    if len(data) > LIMIT:
        raise BadInput(f"{path} has {len(data)} bytes: a file of zones has at most {LIMIT}")
    return data


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid JSON ({error}): write it anew") from error
    if not isinstance(value, dict):
        raise BadInput(f"{path} must be a JSON object, but is a {type(value).__name__}")
    return value


def _labelme(path: Path) -> tuple[tuple[object, object], list[Shape]]:
    value = _read_json(path)
    if value.get("format") == FORMAT:
        raise BadInput(f"{path} is a file of zones already: give it to `edge-ad train --zones`")
    listed = value.get("shapes")
    if not isinstance(listed, list) or not all(isinstance(shape, dict) for shape in listed):
        raise BadInput(f"{path} holds no list 'shapes': it is no file of labelme")
    shapes = []
    for number, shape in enumerate(listed, 1):
        points, form = shape.get("points"), shape.get("shape_type", "polygon")
        if form not in ("polygon", "rectangle"):
            raise BadInput(f"{path}: shape {number} is a {form!r:.40}, and only polygons and rectangles are zones")
        if form == "rectangle" and isinstance(points, list) and len(points) == 2:
            points = _rectangle(points, f"{path}: shape {number}")
        shapes.append((str(shape.get("label") or ""), points))
    return (value.get("imageWidth"), value.get("imageHeight")), shapes


def _rectangle(corners: list[Any], where: str) -> list[list[float]]:
    try:
        (left, top), (right, bottom) = ((float(x), float(y)) for x, y in corners)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"{where}: a rectangle needs two corners [x, y]") from error
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def _svg(path: Path) -> tuple[tuple[object, object], list[Shape]]:
    root = _parse_xml(_read(path), path)
    box = [float(number) for number in _NUMBER.findall(root.get("viewBox", ""))]
    if len(box) == 4:
        left, top, width, height = box
    else:
        left = top = 0.0
        width, height = (_length(root.get(name, "")) for name in ("width", "height"))
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise BadInput(f"{path} says no size from 1 to {MAX_SIDE}: give the drawing a viewBox of the image's pixels")
    moved = [
        (label, [[x - left, y - top] for x, y in points]) for label, points in _shapes(root, path)
    ]  # what lies outside is refused with the other rules of zones
    return (round(width), round(height)), moved


def _length(text: str) -> float:
    match = _NUMBER.match(text.strip())
    return float(match[0]) if match else 0.0


def _parse_xml(data: bytes, path: Path) -> ElementTree.Element:
    def refuse(*_: object) -> None:
        raise BadInput(f"{path} declares a document type, which may hide entities: save it as plain SVG")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return ElementTree.fromstring(data)  # entities were refused above
    except (expat.ExpatError, ElementTree.ParseError, ValueError, LookupError) as error:
        raise BadInput(f"{path} is no valid SVG ({error}): save it anew") from error


def _shapes(root: ElementTree.Element, path: Path) -> Iterator[Shape]:
    hidden = {one for element in root.iter() if _form(element) in _HIDDEN for one in element.iter()}
    for element in (one for one in root.iter() if one not in hidden):
        form = _form(element)
        if form in _OTHER_SHAPES:
            raise BadInput(f"{path} has a {form}, which is no zone: draw it as a polygon, or take it out")
        moved = element.get("transform") or "transform" in element.get("style", "")
        moved = moved or (form == "svg" and element is not root)
        if moved and form in ("svg", "g", "polygon", "rect", "path"):
            raise BadInput(
                f"{path}: a {form} is moved by 'transform': apply it in the drawing program, then save as plain SVG"
            )
        points = _points(element, form, path)
        if points is not None:
            label = next((value for name, value in element.attrib.items() if name.rpartition("}")[2] == "label"), "")
            yield label or element.get("class") or element.get("id") or "", points


def _form(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _points(element: ElementTree.Element, form: str, path: Path) -> list[list[float]] | None:
    if form == "polygon":
        numbers = [float(number) for number in _NUMBER.findall(element.get("points", ""))]
        if len(numbers) % 2:
            raise BadInput(f"{path} has a polygon of {len(numbers)} numbers, an x without its y: draw it anew")
        return [[x, y] for x, y in zip(numbers[::2], numbers[1::2], strict=False)]
    if form == "rect":
        x, y, width, height = (_length(element.get(name, "")) for name in ("x", "y", "width", "height"))
        return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
    return _straight_path(element.get("d", ""), path) if form == "path" else None


def _straight_path(text: str, path: Path) -> list[list[float]]:
    """Return the corners of a path of straight lines; BadInput for curves and for several outlines."""
    points: list[list[float]] = []
    command, numbers, closed, position = "", [], False, [0.0, 0.0]  # type: str, list[float], bool, list[float]
    for match in _PATH.finditer(text):
        if match[2]:
            raise BadInput(f"{path} has a path with curves ({match[2]}): draw zones with straight lines")
        if match[1]:
            if closed or (points and match[1] in "Mm"):
                raise BadInput(f"{path} has a path of several outlines: draw each zone by itself")
            command, numbers, closed = match[1], [], closed or match[1] in "Zz"
            continue
        numbers.append(float(match[0]))
        if len(numbers) == (1 if command in "HhVv" else 2):
            position = _moved(position, command, numbers)
            points.append(position)
            numbers = []
    return points[:-1] if len(points) > 1 and points[-1] == points[0] else points


def _moved(position: list[float], command: str, numbers: list[float]) -> list[float]:
    x, y = position if command.islower() else (0.0, 0.0)
    if command in "Hh":
        return [x + numbers[0], position[1]]
    if command in "Vv":
        return [position[0], y + numbers[0]]
    return [x + numbers[0], y + numbers[1]]
