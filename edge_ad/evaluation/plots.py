"""Images for the report: heat maps beside their images, and plots of curves and scores, as embedded PNG or JPEG."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from edge_ad.data.datasets import TestItem
from edge_ad.data.images import Image, read_image, resize
from edge_ad.evaluation.spro import Map, drawn_back
from edge_ad.geometry.cut_out import Transform
from edge_ad.geometry.region import Roi
from edge_ad.scoring import Thresholds
from edge_ad.scoring.auroc import auroc, roc_curve

SIDE = 300
TICKS = (-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100, 300, 1000, 3000)
OUTLINE = (90, 200, 120)
COLOURS = {"good": "#2a7f3f", "logical": "#c2410c", "structural": "#1d4ed8"}


def heat_range(maps: Sequence[Map]) -> tuple[float, float]:
    """Return the map values shown as no colour and as full colour, common to all images of a report."""
    values = np.concatenate([np.asarray(one)[::4, ::4].ravel() for one in maps])
    low, high = np.quantile(values, [0.5, 0.999])
    return float(low), float(max(high, low + 1e-6))


def beside(
    item: TestItem, heat: Map, limits: tuple[float, float], transform: Transform | None = None, *, roi: Roi | None = None
) -> str:
    """Return a data URI: the image with its mask's outline in white, and next to it the heat map laid over it.

    With a ``transform`` the heat map is that of a cut-out, whose outline is drawn too.
    """
    image = read_image(item.path, item.bits)
    image = image if roi is None else roi.cut(image)
    scale = SIDE / max(image.shape[:2])
    size = (max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale)))
    small = resize(image, size).copy()
    outline = _mask(item, size, roi)
    if transform is not None:
        heat = drawn_back(heat, transform, limits[0])
    strength = cv2.resize(np.asarray(heat, np.float32), (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    strength = np.clip((strength - limits[0]) / (limits[1] - limits[0]), 0, 1)
    colours = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)[:, :, ::-1]
    weight = (0.15 + 0.6 * strength)[..., None]
    overlay = np.ascontiguousarray((small * (1 - weight) + colours * weight).astype(np.uint8))
    contours, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    for pixels in (small, overlay):
        cv2.drawContours(pixels, contours, -1, (0, 0, 0), 3)  # dark below white: seen on any ground
        cv2.drawContours(pixels, contours, -1, (255, 255, 255), 1)
    if transform is not None:
        high, wide = transform.target
        corners = np.array([(-0.5, -0.5), (wide - 0.5, -0.5), (wide - 0.5, high - 0.5), (-0.5, high - 0.5)])
        box = np.rint((transform.to_image(corners) + 0.5) * scale - 0.5).astype(np.int32)
        cv2.polylines(overlay, [box], True, OUTLINE, 1, cv2.LINE_AA)
    gap = np.full((size[0], 4, 3), 255, np.uint8)
    return jpeg(np.hstack([small, gap, overlay]))


def _mask(item: TestItem, size: tuple[int, int], roi: Roi | None) -> Image:
    from edge_ad.data.images import read_mask

    union = np.zeros(size, np.uint8)
    for path in item.masks:
        mask = read_mask(path, item.background)
        whole = ((mask if roi is None else roi.cut(mask)) > 0).astype(np.uint8) * np.uint8(255)
        np.maximum(union, (resize(whole, size) > 0).astype(np.uint8), out=union)
    return union


def jpeg(image: Image) -> str:
    """Return u8[H,W,3] as a data URI."""
    encoded = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
    return "data:image/jpeg;base64," + base64.b64encode(encoded).decode()


def roc_plot(values: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return a data URI of the ROC curve of each kind against the normal images; ``values`` holds the scores by kind.
    """
    figure, axes = empty_figure(4.2, 4.2)
    axes.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle=":")
    for kind, scores in values.items():
        area = auroc(values["good"], scores)
        if kind != "good" and area is not None:
            axes.plot(*roc_curve(values["good"], scores), color=COLOURS[kind], label=f"{kind}: {area:.3f}")
            axes.legend(loc="lower right", frameon=False)
    axes.set(xlabel="normal images called anomalous", ylabel="anomalies found", xlim=(-0.01, 1), ylim=(0, 1.01))
    return png(figure)


def histogram(values: Mapping[str, npt.NDArray[Any]], thresholds: Thresholds | None = None, title: str = "") -> str:
    """Return a data URI of the scores by kind, with both thresholds where they apply."""
    figure, axes = empty_figure(5.4 if thresholds else 3.2, 4.2 if thresholds else 2.1)
    squeezed = {kind: _squeeze(scores) for kind, scores in values.items() if len(scores)}
    together = np.concatenate(list(squeezed.values()))
    edges = np.linspace(together.min(), together.max() + 1e-6, 41)
    for kind, scores in squeezed.items():
        axes.hist(scores, bins=edges, color=COLOURS[kind], alpha=0.55, label=f"{kind} ({len(scores)})")
    if thresholds is not None:
        for name, value, style in (("WARN", thresholds.warn, "--"), ("NG", thresholds.ng, "-")):
            axes.axvline(float(_squeeze(value)), color="black", linewidth=1, linestyle=style, label=name)
        axes.legend(frameon=False)
    axes.set(xlabel="score", ylabel="images", title=title)
    axes.set_xticks([float(_squeeze(tick)) for tick in TICKS], [str(tick) for tick in TICKS])
    axes.set_xlim(edges[0] - 0.3, edges[-1] + 0.3)
    axes.yaxis.get_major_locator().set_params(integer=True)
    return png(figure)


def _squeeze(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    # A symmetric logarithm shows anomalies a hundred times beyond the normal images without squeezing these into one bar;
    # what has no score, as its part was not located, stands at the end of the axis.
    return np.asarray(np.arcsinh(np.clip(np.asarray(scores, np.float64), -np.inf, TICKS[-1]) / 2) * 2)


def empty_figure(width: float, height: float) -> tuple[Any, Any]:
    """Return a figure of so many inches and its axes, without a frame above and to the right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")  # no pyplot: no global state, no display
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def png(figure: Any) -> str:
    """Return a figure as a data URI."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
