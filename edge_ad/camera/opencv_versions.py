"""What the OpenCVs in use name differently: 4.5.4 (Ubuntu 22.04), 4.6 (Ubuntu 24.04, Debian 12), 4.8 (JetPack 6), 5.0.

Everything else that this package takes from OpenCV has one name in all of them.
"""

from __future__ import annotations

from typing import Any

import cv2

# The names that say where the mosaic begins (COLOR_BayerRGGB2RGB) came with 4.6. The older ones, which every version
# has, name the two pixels in the middle of the second row instead: RGGB is "BG". The key names the first two pixels of
# the first row, as GenICam does.
BAYER_TO_RGB: dict[str, int] = {
    "RG": cv2.COLOR_BayerBG2RGB,
    "GR": cv2.COLOR_BayerGB2RGB,
    "GB": cv2.COLOR_BayerGR2RGB,
    "BG": cv2.COLOR_BayerRG2RGB,
}

_SILENT = 0  # LOG_LEVEL_SILENT, which versions before 4.13 do not name


def set_log_level(level: int) -> int:
    """Set what OpenCV prints and return what it was before.

    Versions before 4.13 have the two functions at the top, later ones in a module.
    """
    home: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging
    before = int(home.getLogLevel())
    home.setLogLevel(level)
    return before


def silence() -> int:
    """Let OpenCV print nothing and return the level before."""
    return set_log_level(_SILENT)


def one_decoding_thread() -> list[int]:
    """Return the capture parameters that keep FFmpeg to one thread; none before OpenCV 4.7, which refuses them."""
    return [cv2.CAP_PROP_N_THREADS, 1] if hasattr(cv2, "CAP_PROP_N_THREADS") else []


def undecoded_images_have_times() -> bool:
    """Whether a stream of FFmpeg tells its clock while it hands over undecoded images: 5.0 does, 4.5 to 4.8 say 0."""
    return int(cv2.__version__.partition(".")[0]) >= 5
