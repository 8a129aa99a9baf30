"""Defect channels from mask files, with the saturation that a set's defects_config.json gives them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edge_ad.data.images import read_mask
from edge_ad.data.layouts import Saturation, TestItem
from edge_ad.errors import BadInput
from edge_ad.evaluation.spro import Channel


def read_channels(item: TestItem, size: tuple[int, int], saturation: Mapping[int, Saturation]) -> list[Channel]:
    """Return the defect channels of an image, each u8 mask file one channel, at the image's ``size`` (H, W).

    With ``saturation`` every mask must hold 0 and exactly one value that it knows; without, any value above 0 is the
    defect and all of it must be found. Raises BadInput for a mask that is unreadable, of another size, empty or of
    unknown value.
    """
    channels = []
    for path in item.masks:
        mask = read_mask(path)
        if mask.shape != size:
            raise BadInput(
                f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels "
                f"but its image {item.path} is {size[1]} x {size[0]}: a mask must have the size of its image"
            )
        pixels = mask > 0
        area = int(np.count_nonzero(pixels))
        if not area:
            raise BadInput(f"{path} marks no pixel: a mask must hold a defect, so take the file away or draw it")
        rule = Saturation(1.0, True)
        if saturation:
            values = np.unique(mask[pixels]).tolist()
            if len(values) != 1 or values[0] not in saturation:
                known = ", ".join(map(str, sorted(saturation)))
                told = ", ".join(map(str, values[:5]))
                raise BadInput(
                    f"{path} holds the values {told}: one of {known} is allowed, as defects_config.json lists them"
                )
            rule = saturation[values[0]]
        channels.append(Channel(pixels, saturated_area(rule, area)))
    return channels


def saturated_area(rule: Saturation, area: int) -> int:
    """Return how many of ``area`` pixels must be found for a defect to count as found, at least one."""
    return max(1, int(rule.threshold * area) if rule.relative else min(int(rule.threshold), area))
