"""Settings of cameras that differ from product to product: checked at the start, applied at a change.

No image counts before one shows them for certain.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from edge_ad.camera.frames import Source
from edge_ad.camera.live import Adjustment, Live
from edge_ad.camera.settings import CameraSettings, settings_of
from edge_ad.camera.sources import adjustable
from edge_ad.config import Config
from edge_ad.errors import BadInput, DeviceFault
from edge_ad.inspection.triggers import parse_trigger
from edge_ad.utils.text import redact

WAIT_S = 5.0  # for an image that shows the settings
# By the value that switches them off.
SWITCHES = {"exposure_us": "auto_exposure", "white_balance_k": "auto_white_balance", "focus": "auto_focus"}


def asked_of(settings: Config, product: str, view: str | None) -> dict[str, Any]:
    """Return the settings that a product asks of a camera, with the automatic off of every value."""
    table = settings.product[product]
    asked = dict(table.camera.asked())
    if view is not None and view in table.view:
        asked |= table.view[view].camera.asked()
    return asked | {switch: False for value, switch in SWITCHES.items() if value in asked and switch not in asked}


def check_adjustments(settings: Config, cameras: Sequence[str]) -> None:
    """Raise BadInput where a product sets what a camera cannot take while it gives images, or where no image can be waited for."""
    views: Sequence[str | None] = settings.part.views or [None] * len(cameras)
    for name in settings.product:
        for camera, view in zip(cameras, views, strict=True):
            asked, known = asked_of(settings, name, view), adjustable(camera)
            refused = next((key for key in asked if key not in known), None)
            if refused is not None:
                allowed = f"it takes {', '.join(known)}" if known else "cameras of Video4Linux, GenICam and Aravis do"
                raise BadInput(
                    f"product {name} sets {refused}, which camera {redact(camera)} does not take while it gives images: {allowed}; "
                    f"leave it out of [product.{name}.camera]"
                )
            if asked:
                _check_moment(settings, name)


def _check_moment(settings: Config, name: str) -> None:
    if settings.product[name].match is not None:
        raise BadInput(
            f"product {name} sets its camera, and is chosen by the id of a part that is in view already (match): leave one out"
        )
    trigger = settings.run.trigger
    if trigger is not None and parse_trigger(trigger, settings.run.alarm).kind == "camera":
        raise BadInput(
            f"product {name} sets its camera, which gives no image before the next part with --trigger camera: leave one out"
        )


class CameraAdjuster:
    """Sets the cameras of a run as the product asks that is judged; what it does not ask for is as when they were opened.

    BadInput where a product sets a value that another leaves as it is, and the camera does not tell it.
    """

    def __init__(self, settings: Config, sources: Sequence[Source]) -> None:
        views: Sequence[str | None] = settings.part.views or [None] * len(sources)
        self._cameras = [source for source in sources if isinstance(source, Live)]
        self._asked: dict[str, list[CameraSettings]] = {name: [] for name in settings.product}
        for source, view in zip(sources, views, strict=True):
            if not isinstance(source, Live):
                continue
            asked = {name: asked_of(settings, name, view) for name in settings.product}
            keys = {key for one in asked.values() for key in one}
            opened = settings_of(source).to_json()
            for name, own in asked.items():
                self._asked[name].append(CameraSettings(**_complete(name, own, keys, opened)))

    @property
    def needed(self) -> bool:
        """Whether any product sets a camera."""
        return any(one.to_json() for row in self._asked.values() for one in row)

    def begin(self, product: str) -> list[Adjustment]:
        """Ask for the settings of a product; until they are in force no image counts."""
        if not self.needed:
            return []
        return [camera.adjust(asked) for camera, asked in zip(self._cameras, self._asked[product], strict=True)]

    def apply(self, product: str) -> None:
        """Set the cameras and wait until an image of each shows it; DeviceFault names the one that does not."""
        until = time.monotonic() + WAIT_S
        for camera, asked in zip(self._cameras, self.begin(product), strict=False):
            shown = asked.done.wait(max(until - time.monotonic(), 0.0))
            if asked.fault is not None or not shown:
                reason = asked.fault or f"no image showed its settings within {WAIT_S:g} s"
                raise DeviceFault(f"camera {camera.name}: {reason}")


def _complete(product: str, own: Mapping[str, Any], keys: set[str], opened: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a product asks for, and for what others ask the values of the opened camera."""
    complete = dict(own)
    for key in sorted(keys - set(own)):
        switch = SWITCHES.get(key)
        if switch is not None and complete.get(switch, opened.get(switch)) is True:
            continue  # the camera sets it itself
        if key in SWITCHES.values() and key not in opened:
            continue  # it has no such automatic
        if key not in opened:
            raise BadInput(
                f"product {product} leaves {key} as it is, another sets it, and the camera does not tell it: give {key} to all "
                "products, under [product.NAME.camera]"
            )
        complete[key] = opened[key]
    return complete
