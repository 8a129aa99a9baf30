"""What a line may change without its parts changing: light, colour, focus, noise and place, as limits in the user's words.

Normal images are disturbed within a ``Tolerance``, at random and with one axis at its limit at a time. Light, colour, blur
and noise are those of the input, the image as it is judged; shift, rotation and scale are those of the camera's frame,
so that a located part is located again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput

Image = NDArray[np.uint8]
BEYOND = 3.0  # times a tolerance: a frame as far from the normal images must not be judged
MIN_BLUR = 0.2  # pixels: below it the kernel is a single one


@dataclass(frozen=True)
class Axis:
    """One kind of disturbance: the ``unit`` that users write, its ``factor`` to our value, and the largest amount supported."""

    unit: str
    factor: float
    largest: float
    meaning: str

    def read(self, name: str, text: str) -> float:
        """Return the value of a text such as ``10 %``; BadInput with what is allowed for anything else."""
        allowed = f"write a number from 0 to {self.largest:g}{' ' + self.unit if self.unit else ''}, such as {self.example}"
        match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*(\S*)", text.strip())
        if match is None or match[2] not in {"", self.unit}:
            raise BadInput(f"tolerance {name} is {text!r:.60}: {allowed}")
        if float(match[1]) > self.largest:
            raise BadInput(f"tolerance {name} is {text!r:.60}, beyond what the method supports: {allowed}")
        return float(match[1]) * self.factor

    @property
    def example(self) -> str:
        """A value as a user writes it."""
        return self.show(self.largest * self.factor / 4)

    def show(self, value: float) -> str:
        """Return a value as a user writes it."""
        return f"{value / self.factor:.4g}{' ' + self.unit if self.unit else ''}"


AXES: Mapping[str, Axis] = MappingProxyType({
    "light": Axis("%", 0.01, 30, "brightness, a factor of all pixels"),
    "colour": Axis("%", 0.01, 15, "a cast, a factor of each channel"),
    "blur": Axis("px", 1, 3, "standard deviation of a Gaussian in pixels of the input"),
    "noise": Axis("", 1, 12, "standard deviation in grey levels of the input"),
    "shift": Axis("%", 0.01, 10, "of the frame's mean side, along both axes"),
    "rotation": Axis("deg", 1, 15, "about the middle of the frame"),
    "scale": Axis("%", 0.01, 10, "nearer to or farther from the camera"),
})  # fmt: skip


@dataclass(frozen=True)
class Disturbance:
    """One change of an image: factors of the channels, blur and noise of the input; shift (shares), degrees and scale of the
    frame.
    """

    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    blur: float = 0.0
    noise: float = 0.0
    shift: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0
    scale: float = 1.0

    @property
    def moves(self) -> bool:
        """Whether it moves what the frame shows."""
        return self.shift != (0.0, 0.0) or self.angle != 0 or self.scale != 1

    def move(self, frame: Image) -> Image:
        """Return a frame u8 [H, W, 3] shifted, rotated and scaled; its rim is mirrored."""
        if not self.moves:
            return frame
        height, width = frame.shape[:2]
        matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), self.angle, self.scale)
        matrix[:, 2] += np.multiply(self.shift, math.sqrt(height * width))
        moved = cv2.warpAffine(frame, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        return np.asarray(moved, np.uint8)

    def degrade(self, image: Image, rng: np.random.Generator) -> Image:
        """Return an input u8 [H, W, 3] in other light, less sharp and with noise."""
        result = image.astype(np.float32)
        if self.blur > MIN_BLUR:
            result = np.asarray(cv2.GaussianBlur(result, (0, 0), self.blur), np.float32)
        result = result * np.asarray(self.gain, np.float32)
        if self.noise:
            result = result + rng.normal(0.0, self.noise, image.shape).astype(np.float32)
        return np.asarray(np.clip(np.rint(result), 0, 255), np.uint8)


@dataclass(frozen=True)
class Tolerance:
    """How far a line may change: shares of light, colour, shift and scale, blur in pixels and noise in grey levels of the
    input, rotation in degrees. All are 0 by default: no tolerance.
    """

    light: float = 0.0
    colour: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    shift: float = 0.0
    rotation: float = 0.0
    scale: float = 0.0

    def __bool__(self) -> bool:
        """Whether anything may change."""
        return any(self.as_dict().values())

    @classmethod
    def read(cls, given: Mapping[str, str], base: Tolerance | None = None) -> Tolerance:
        """Return ``base`` with the axes that are ``given`` as a user writes them; BadInput, with the limit, for a bad one."""
        values = {} if base is None else base.as_dict()
        for name, text in given.items():
            if name not in AXES:
                raise BadInput(f"there is no tolerance {name!r:.40}; there are {', '.join(AXES)}")
            values[name] = AXES[name].read(name, text)
        return cls(**values)

    @property
    def changes_look(self) -> bool:
        """Whether light, colour, focus or noise may change, so not only the place."""
        return any((self.light, self.colour, self.blur, self.noise))

    @classmethod
    def parse(cls, text: str, *, aligned: bool = False) -> Tolerance:
        """Return what ``auto``, ``none``, ``default`` or a list such as ``light=10%,blur=1px`` says.

        Axes that a list leaves out are 0, or those of the word that it begins with. ``auto`` is PLACE where parts are ``aligned``
        and therefore judged as whole images, else none: to a located part the place means nothing, and an aligned one
        that was not located shall not be rejected for what would not have moved it.
        """
        bases = {"none": None, "default": DEFAULT, "auto": PLACE if aligned else None}
        first, _, rest = text.strip().partition(",")
        words = rest if first.strip() in bases else text.strip()
        pairs = [part.partition("=") for part in words.split(",")] if words or not text.strip() else []
        if not all(name.strip() and value.strip() for name, _, value in pairs):
            allowed = "write auto, none, default or a list such as light=10%,blur=1px,rotation=2deg"
            raise BadInput(f"--tolerance is {text!r:.80}: {allowed}")
        return cls.read({name.strip(): value for name, _, value in pairs}, bases.get(first.strip()))

    def as_dict(self) -> dict[str, float]:
        """Return the value of each axis."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __str__(self) -> str:
        """Return the axes that may change as a user writes them."""
        return ", ".join(f"{name} {AXES[name].show(value)}" for name, value in self.as_dict().items() if value) or "none"

    @property
    def option(self) -> str:
        """The words of ``--tolerance`` that mean this one."""
        values = ((name, AXES[name].show(value)) for name, value in self.as_dict().items() if value)
        return ",".join(f"{name}={value.replace(' ', '')}" for name, value in values) or "none"

    def draw(self, rng: np.random.Generator) -> Disturbance:
        """Return a disturbance drawn evenly from everything within the tolerance."""
        light, angle, scale = (value * rng.uniform(-1, 1) for value in (self.light, self.rotation, self.scale))
        cast, (across, down) = self.colour * rng.uniform(-1, 1, 3), self.shift * rng.uniform(-1, 1, 2)
        red, green, blue = (float((1 + light) * (1 + one)) for one in cast)
        blur, noise = self.blur * rng.uniform(), self.noise * rng.uniform()
        return Disturbance((red, green, blue), blur, noise, (float(across), float(down)), angle, 1 + scale)

    def corners(self) -> dict[str, tuple[Disturbance, ...]]:
        """Return the disturbances with one axis at its limit and all others at rest, by axis; none for an axis without one."""
        light, cast, move = self.light, self.colour, self.shift
        every = {
            "light": (Disturbance((1 + light,) * 3), Disturbance((1 - light,) * 3)),
            "colour": (Disturbance((1 + cast, 1.0, 1 - cast)), Disturbance((1 - cast, 1.0, 1 + cast))),
            "blur": (Disturbance(blur=self.blur),),
            "noise": (Disturbance(noise=self.noise),),
            "shift": (Disturbance(shift=(move, move)), Disturbance(shift=(-move, -move))),
            "rotation": (Disturbance(angle=self.rotation), Disturbance(angle=-self.rotation)),
            "scale": (Disturbance(scale=1 + self.scale), Disturbance(scale=1 - self.scale)),
        }
        return {name: every[name] for name, value in self.as_dict().items() if value}


DEFAULT = Tolerance(light=0.1, colour=0.03, blur=1.0, noise=2.0, shift=0.02, rotation=2.0, scale=0.02)
PLACE = Tolerance(shift=DEFAULT.shift, rotation=DEFAULT.rotation, scale=DEFAULT.scale)


def quality_looks(tolerance: Tolerance) -> dict[str, tuple[Disturbance, Disturbance]]:
    """Return, by fault of a frame, what lies at the limit of a tolerance and what BEYOND times as far."""
    light, far = tolerance.light, BEYOND * tolerance.light
    casts = {  # the signs by which red, green and blue change
        "tinted warm": (1, 0, -1), "tinted cool": (-1, 0, 1), "tinted green": (-1, 1, -1), "tinted magenta": (1, -1, 1),
    }  # fmt: skip
    turn, zoom = tolerance.rotation, tolerance.scale
    looks = {  # place first: a frame that is turned or scaled by computation is a little softer, too
        "turned clockwise": (Disturbance(angle=-turn), Disturbance(angle=-BEYOND * turn)),
        "turned counter-clockwise": (Disturbance(angle=turn), Disturbance(angle=BEYOND * turn)),
        "too near": (Disturbance(scale=1 + zoom), Disturbance(scale=1 + BEYOND * zoom)),
        "too far": (Disturbance(scale=1 - zoom), Disturbance(scale=1 - BEYOND * zoom)),
        "blurred": (Disturbance(blur=tolerance.blur), Disturbance(blur=BEYOND * tolerance.blur)),
        "noisy": (Disturbance(noise=tolerance.noise), Disturbance(noise=BEYOND * tolerance.noise)),
        "dark": (Disturbance((1 - light,) * 3), Disturbance((max(1 - far, 0.02),) * 3)),
        "bright": (Disturbance((1 + light,) * 3), Disturbance((1 + far,) * 3)),
    }
    for fault, (red, green, blue) in casts.items():  # last: another fault is named where there is one
        near, away = tolerance.colour, BEYOND * tolerance.colour
        looks[fault] = (
            Disturbance((1 + red * near, 1 + green * near, 1 + blue * near)),
            Disturbance((1 + red * away, 1 + green * away, 1 + blue * away)),
        )
    asked = {"blurred": tolerance.blur, "noisy": tolerance.noise, "dark": light, "bright": light}
    asked |= dict.fromkeys(casts, tolerance.colour)
    asked |= {"turned clockwise": turn, "turned counter-clockwise": turn, "too near": zoom, "too far": zoom}
    return {fault: look for fault, look in looks.items() if asked[fault]}
