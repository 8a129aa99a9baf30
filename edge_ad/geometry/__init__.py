"""Find the part in an image and cut it out upright: poses, locators, and the way back into the original image.

NumPy and OpenCV only. A locator is learned from normal images by ``fit_geometry`` and stored as plain data.
"""

from typing import Literal, TypeAlias, get_args

Method: TypeAlias = Literal["auto", "square", "none", "foreground", "shift", "rigid", "rigid_any", "scaled", "anchors"]
"""How an image becomes the input. ``square``: the whole image, squashed; ``none``: the whole image in its own aspect
ratio; the others locate the part; ``auto`` chooses among all but ``square``."""
METHODS: tuple[Method, ...] = get_args(Method)
WHOLE: tuple[Method, ...] = ("square", "none")
