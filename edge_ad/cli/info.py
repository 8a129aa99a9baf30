"""`edge-ad info`: what is in a bundle, and which networks the presets are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from edge_ad.bundle import Bundle

_LONG_LIST, _LONG_TEXT = 8, 500


def command(
    bundle: Annotated[
        Path | None, typer.Argument(help="The bundle; without it, the newest one under runs/.", show_default=False)
    ] = None,
    networks: Annotated[
        bool, typer.Option("--networks", help="List the networks of every preset, with parameters and GMAC.")
    ] = False,
    teacher: Annotated[
        bool, typer.Option("--teacher", help="Print the model cards of the teachers in the package.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the same as JSON to this file.")] = None,
) -> None:
    """Tell what is in BUNDLE: graphs, weights of the branches, thresholds and their promise, report."""
    from edge_ad.errors import BadInput
    from edge_ad.utils.files import atomic_write, newest_bundle

    asked = [name for name, wanted in (("--networks", networks), ("--teacher", teacher)) if wanted]
    if len(asked) + (bundle is not None) > 1:
        named = " and ".join([*asked, *([str(bundle)] if bundle else [])])
        raise BadInput(f"`edge-ad info` tells of one thing at a time, but got {named}: leave out all but one")
    if networks:
        table: Mapping[str, Any] = network_table()
        lines = describe_networks(table)
    elif teacher:
        table = teacher_cards()
        lines = describe_teachers(table)
    else:
        from edge_ad.bundle import open_bundle

        table = bundle_details(open_bundle(bundle or newest_bundle()))
        lines = describe_bundle(table)
    for line in lines:
        typer.echo(line)
    if out is not None:
        atomic_write(out, json.dumps(table, indent=2) + "\n")


def network_table() -> dict[str, dict[str, dict[str, float]]]:
    """Return ``{preset: {network: {"params", "gmac"}}}`` for every preset; needs torch."""
    from edge_ad.errors import require
    from edge_ad.presets.presets import PRESETS

    require("torch", extra="train", needed_by="edge-ad info --networks")
    from edge_ad.models.build import networks

    return {name: networks(preset) for name, preset in PRESETS.items()}


def describe_networks(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """Yield one line a network: preset, name, parameters, GMAC (multiply-accumulates of one frame, in 10^9)."""
    yield f"{'preset':<8} {'network':<24} {'parameters':>12} {'GMAC':>8}"
    for preset, networks in table.items():
        for name, details in networks.items():
            yield f"{preset:<8} {name:<24} {int(details['params']):>12,} {details['gmac']:>8.3f}"


def teacher_cards() -> dict[str, dict[str, Any]]:
    """Return the model card of every teacher in the package, by its kind."""
    from edge_ad.weights import card_of, shipped

    return {kind: card_of(kind) for kind in shipped()}


def describe_teachers(cards: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of every model card; weights that differ from their card are told."""
    for kind, card in cards.items():
        yield kind if card["intact"] else f"{kind}: the weights differ from this card, install edge-ad again"
        yield from (f"  {line}" for line in _flat(card))


def bundle_details(bundle: Bundle) -> dict[str, Any]:
    """Return what `info` tells of a bundle, as JSON values; sizes in bytes."""
    statistics = bundle.statistics
    members = bundle.manifest["members"]
    return {
        "path": str(bundle.path),
        "sha256": bundle.sha256,
        "bytes": bundle.path.stat().st_size,
        "name": bundle.name,
        "preset": bundle.preset,
        "created": bundle.created,
        "parent": bundle.parent,
        "image_size": list(bundle.image_size),
        "geometry": geometry_details(bundle),
        "settings": bundle.settings,
        "graphs": {
            name: {"bytes": members[f"graphs/{name}.onnx"]["bytes"], "sha256": bundle.graph_sha256(name)}
            for name in bundle.graphs
        },
        "views": len(bundle.masks),
        "weights": {name: float(weight) for name, weight in zip(statistics.branches, statistics.weight, strict=True)},
        "raw_scores": {split: len(scores) for split, scores in bundle.raw_scores.items()},
        "golden_images": len(bundle.golden.images),
        "thresholds": bundle.thresholds.to_json(),
        "promise": bundle.thresholds.describe(),
        "report": bundle.report,
    }


def geometry_details(bundle: Bundle) -> dict[str, Any]:
    """Return how an image becomes the input, without opening what needs OpenCV where images are squashed."""
    from edge_ad.bundle.contents import GEOMETRY

    if GEOMETRY not in bundle.manifest["members"]:
        return {"method": "square", "expected": None}
    geometry = bundle.geometry
    expected = None if geometry.expected is None else geometry.expected.as_dict()
    more: dict[str, Any] = {} if geometry.zones is None else {"zones": geometry.zones.report()}
    more |= {} if geometry.gains is None else {"gains": list(geometry.gains)}
    return {"method": geometry.method, "frame_size": list(geometry.image_size), "expected": expected, **more}


def describe_geometry(details: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of ``geometry_details``."""
    if (zones := details.get("zones")) is not None:
        counts = ", ".join(f"{count} {kind}" for kind, count in zones["counts"].items() if count)
        yield f"  zones       {counts}; {zones['ignored']:.1%} of the input is ignored; sha256 {zones['sha256'][:16]}"
    if (gains := details.get("gains")) is not None:
        from edge_ad.geometry.colour import describe_gains

        yield f"  gains       {describe_gains(gains)}"
    expected = details["expected"]
    whole = {"square": "whole images, squashed", "none": "whole images in their aspect ratio"}
    if expected is None:
        yield f"  geometry    {details['method']}: {whole.get(details['method'], 'the part is located')}"
        return
    height, width = details["frame_size"]
    yield f"  geometry    {details['method']}: the part is located in images of {width} x {height} pixels"
    turn = "any angle" if expected["turn"] >= 180 else (
        f"angle {expected['angle'] - expected['turn']:.1f} to {expected['angle'] + expected['turn']:.1f} degrees"
    )
    ranges = (f"{name} {expected[name][0]:.4g} to {expected[name][1]:.4g}" for name in ("x", "y", "scale"))
    yield f"  expected    {', '.join(ranges)}, {turn}"


def describe_bundle(details: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines that `info` prints for ``bundle_details``."""
    height, width = details["image_size"]
    yield f"{details['name']}  ({details['path']}, {_size(details['bytes'])})"
    yield f"  sha256      {details['sha256']}"
    yield f"  preset      {details['preset']}, images {height} x {width}, {details['views']} masked views"
    yield from describe_geometry(details["geometry"])
    yield f"  created     {details['created']}"
    yield f"  parent      {details['parent'] or 'none: trained, not recalibrated'}"
    yield "graphs"
    for name, graph in details["graphs"].items():
        yield f"  {name:<14} {_size(graph['bytes']):>10}  sha256 {graph['sha256']}"
    yield "weights of the branches"
    for name, weight in details["weights"].items():
        yield f"  {name:<14} {weight:.3f}" + ("" if weight else "  (not used)")
    yield "thresholds"
    for part in details["promise"].split("; "):
        yield f"  {part}"
    yield f"  proof: {details['golden_images']} golden images; raw scores: " + ", ".join(
        f"{count} {split}" for split, count in details["raw_scores"].items()
    )
    for title in ("settings", "report"):
        if details[title]:
            yield title
            yield from (f"  {line}" for line in _flat(details[title]))


def _flat(value: Any, key: str = "") -> Iterator[str]:
    """Yield ``key value`` lines of nested JSON; a long list or text is only counted: --json has all of it."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and (len(value) > _LONG_LIST or any(isinstance(item, list | dict) for item in value)):
        yield f"{key}: {len(value)} entries"
    elif isinstance(value, str) and len(value) > _LONG_TEXT:
        yield f"{key}: {len(value)} characters"
    else:
        yield f"{key}: {value:.6g}" if isinstance(value, float) else f"{key}: {value}"


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"
