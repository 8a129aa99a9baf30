"""`edge-ad zones`: which places of the image are inspected, ignored or weighed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_ad.cli.options import options_of
from edge_ad.config import Config

if TYPE_CHECKING:
    from edge_ad.geometry.pose import Image
    from edge_ad.geometry.zones import Zone, Zones

ACTIONS = ("show", "edit", "import")
NAME = "zones.json"
ACTION = "show; edit: draw them on a page, or add and remove some; import: take them from a drawing."
TARGET = "A bundle, whose parts as they are judged the zones are drawn on, or a folder of normal images, drawn on as they are."


@options_of()
def command(
    settings: Config,
    *,
    action: Annotated[str, typer.Argument(help=ACTION)],
    target: Annotated[Path, typer.Argument(metavar="BUNDLE|FOLDER", help=TARGET)],
    drawing: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="import: labelme JSON or SVG.")] = None,
    zones: Annotated[
        Path | None,
        typer.Option("--zones", metavar="FILE", help=f"The file of zones [{NAME} beside the bundle or in the folder]."),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(help="edit: 'KIND[=FACTOR] X,Y X,Y X,Y ...' in pixels of that image; repeats.", metavar="ZONE"),
    ] = None,
    remove: Annotated[
        list[int] | None, typer.Option(help="edit: the number of a zone that `show` lists; repeats.")
    ] = None,
    roi: Annotated[
        str | None, typer.Option(help="A folder: draw on this rectangle of its images [roi of train].", metavar="X,Y,W,H")
    ] = None,
    kind: Annotated[str, typer.Option(help="import: the kind of shapes whose label names none.")] = "ignore",
) -> None:
    """Show, edit or import zones: polygons of kind inspect, ignore or sensitivity, for `edge-ad train --zones`."""
    from edge_ad.errors import BadInput, require
    from edge_ad.geometry.zone_files import import_zones, read_zones, write_zones

    require("cv2", extra="cpu", needed_by="edge-ad zones")
    if action not in ACTIONS:
        raise BadInput(f"unknown action {action!r}: choose one of {', '.join(ACTIONS)}")
    if (drawing is not None) != (action == "import"):
        raise BadInput("`edge-ad zones import BUNDLE|FOLDER FILE` takes a drawing, and no other action does")
    if action != "edit" and (add or remove):
        raise BadInput(f"--add and --remove change zones: use `edge-ad zones edit {target}`")
    path = zones or (target / NAME if target.is_dir() else target.with_name(NAME))
    if action == "show":
        _show(_stored(target, path))
        return
    image = _image_of(target, roi or settings.train.roi)
    size = image.shape[0], image.shape[1]
    if action == "edit" and not add and not remove:
        _write_page(image, path)
        return
    if action == "import":
        assert drawing is not None
        result = import_zones(drawing, kind)
        if result.size[1] * size[0] != result.size[0] * size[1]:
            raise BadInput(
                f"{drawing} was drawn on an image of {result.size[1]} x {result.size[0]} pixels, but {target} shows "
                f"{size[1]} x {size[0]}: draw on an image of that shape"
            )
    else:
        result = _edited(read_zones(path) if path.exists() else None, size, add or [], remove or [])
    write_zones(path, result)
    _show(result)
    typer.echo(f"{path}  (edge-ad train DATA --zones {path})")


def _stored(target: Path, path: Path) -> Zones:
    """Return the zones that a bundle was trained with, or else those of the file."""
    from edge_ad.bundle import open_bundle
    from edge_ad.errors import BadInput
    from edge_ad.geometry.zone_files import read_zones

    if target.is_file():
        known = open_bundle(target).geometry.zones
        if known is not None:
            return known.zones
    if not path.exists():
        raise BadInput(f"{target} has no zones, and there is no {path}: write it with `edge-ad zones edit` or `import`")
    return read_zones(path)


def _write_page(image: Image, path: Path) -> None:
    """Write the page on which zones are drawn, beside their file."""
    from edge_ad.geometry.zone_files import read_zones
    from edge_ad.web.zone_page import write_zone_page

    page = path.with_suffix(".html")
    write_zone_page(page, image, read_zones(path) if path.exists() else None, path)
    typer.echo(f"{page}  (open it in a browser, draw, and save as {path})")


def _image_of(target: Path, roi: str | None) -> Image:
    """Return the image u8[H,W,3] that zones of a target are drawn on; of a folder's images the region ``roi``."""
    from edge_ad.bundle import open_bundle
    from edge_ad.config import parse_rectangle
    from edge_ad.data.folders import list_nested
    from edge_ad.data.images import read_image
    from edge_ad.errors import BadInput
    from edge_ad.geometry.region import Roi

    if target.is_file():
        bundle = open_bundle(target)
        known, golden = bundle.geometry.zones, bundle.golden.images
        shown: Image = (
            golden[: max(1, len(golden) // 2)].mean(axis=0).round().astype("uint8")
        )  # the first half is normal
        return shown if known is None else known.mean
    if not target.is_dir():
        raise BadInput(f"{target} is neither a bundle nor a folder of normal images: name one of them")
    paths = list_nested(target)
    if not paths:
        raise BadInput(f"{target} holds no image: name a folder of normal images")
    image = read_image(paths[0])
    return image if roi is None else Roi(*parse_rectangle("roi", roi, "100,40,640,480")).cut(image)


def _edited(known: Zones | None, size: tuple[int, int], add: list[str], remove: list[int]) -> Zones:
    from edge_ad.errors import BadInput
    from edge_ad.geometry.zones import Zones

    existing = [] if known is None else list(known.zones)
    for number in remove:
        if not 1 <= number <= len(existing):
            raise BadInput(f"--remove is {number}, but there are {len(existing)} zones: `edge-ad zones show` lists them")
    left = [zone for number, zone in enumerate(existing, 1) if number not in remove]
    return Zones(size if known is None else known.size, (*left, *map(_parse, add)))


def _parse(text: str) -> Zone:
    from edge_ad.errors import BadInput
    from edge_ad.geometry.zones import Zone, check_kind

    head, *pairs = text.split()[:1000] or [""]
    kind, _, factor = head.partition("=")
    try:
        points = tuple((float(x), float(y)) for x, y in (pair.split(",") for pair in pairs))
        weight = float(factor) if factor else 1.0
    except ValueError as error:
        raise BadInput(f"--add is {text[:80]!r}: write KIND X,Y X,Y X,Y, such as 'ignore 10,10 90,10 90,60'") from error
    known = check_kind(kind, f"--add {text[:80]!r}")
    if bool(factor) != (known == "sensitivity"):
        raise BadInput(
            f"--add is {text[:80]!r}: sensitivity zones, and they alone, have a factor, such as sensitivity=2"
        )
    return Zone(known, points, factor=weight)


def _show(zones: Zones) -> None:
    typer.echo(
        f"{len(zones.zones)} zones on an image of {zones.size[1]} x {zones.size[0]} pixels, sha256 {zones.sha256[:16]}"
    )
    for number, zone in enumerate(zones.zones, 1):
        factor = f" x{zone.factor:g}" if zone.kind == "sensitivity" else ""
        points = " ".join(f"{x:g},{y:g}" for x, y in zone.points[:8]) + (" ..." if len(zone.points) > 8 else "")
        typer.echo(f"{number:3}  {zone.kind}{factor} {zone.name}  {points}".replace("   ", "  "))
