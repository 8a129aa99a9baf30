"""What a camera is set to: asked for, read back, stored beside the images (camera.json) and compared at the run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from edge_ad.camera.uri import parse_query
from edge_ad.errors import BadInput
from edge_ad.utils.files import atomic_write, read_regular

_AUTOMATIC = {
    "exposure_us": "auto_exposure",
    "gain": "auto_exposure",
    "white_balance_k": "auto_white_balance",
    "focus": "auto_focus",
}
_TOLERANCE = {"rate": 0.05}
_USUAL_TOLERANCE = 0.02
_WHOLE = ("width", "height")


@dataclass(frozen=True)
class CameraSettings:
    """Settings of one camera; None where nothing was asked for, or where the camera does not tell.

    ``exposure_us`` in microseconds, ``gain`` and ``focus`` in the camera's own units, ``white_balance_k`` in kelvin,
    ``rate`` in frames a second, ``width`` and ``height`` in pixels; ``pixel_format`` as the driver names it (``MJPG``,
    ``YUYV``, ``Mono8``, ``BayerRG8`` ...). The three ``auto_`` switches tell whether the camera sets a value itself.
    """

    exposure_us: float | None = None
    auto_exposure: bool | None = None
    gain: float | None = None
    white_balance_k: float | None = None
    auto_white_balance: bool | None = None
    focus: float | None = None
    auto_focus: bool | None = None
    rate: float | None = None
    pixel_format: str | None = None
    width: int | None = None
    height: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the settings that are known, as JSON values."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, value: Any, where: str = "camera settings") -> CameraSettings:
        """Read what ``to_json`` wrote; BadInput names an unknown key or a wrong value."""
        if not isinstance(value, Mapping):
            raise BadInput(f"{where}: {value!r} is no table of settings; capture the normal images again")
        unknown = sorted(set(value) - set(KEYS))
        if unknown:
            raise BadInput(f"{where}: unknown setting {unknown[0]!r}; allowed are {', '.join(KEYS)}")
        return cls(**{key: _checked(key, result, where) for key, result in value.items()})

    def asked(self) -> dict[str, Any]:
        """Return what was asked for, with every automatic switched off whose value is given."""
        asked = self.to_json()
        for key, switch in _AUTOMATIC.items():
            if key in asked and key != "gain":
                asked.setdefault(switch, False)
        return asked


ADJUSTABLE = ("exposure_us", "auto_exposure", "gain", "white_balance_k", "auto_white_balance", "focus", "auto_focus")
"""Settings that a camera may take while it gives images."""
NO_NODE = ("white_balance_k", "auto_focus")
"""Settings that cameras of GenICam do not have."""
KEYS: tuple[str, ...] = tuple(field.name for field in fields(CameraSettings))


def parse_settings(query: str, where: str) -> CameraSettings:
    """Return the settings of a URI's query such as ``exposure_us=8000&rate=30``; BadInput names a wrong one."""
    return CameraSettings.from_json(
        {key: _from_text(key, text) for key, text in parse_query(query, KEYS, where).items()}, where
    )


def settings_of(source: object) -> CameraSettings:
    """Return what a source was found to be set to when it was last opened; empty for one that has no settings."""
    result = getattr(source, "settings", None)
    return result if isinstance(result, CameraSettings) else CameraSettings()


def difference(stored: CameraSettings, actual: CameraSettings) -> list[str]:
    """Return one sentence for each setting that is not as stored; empty when all that both know agrees.

    Numbers may differ by 2 % (the rate by 5 %). What one side does not know is not compared, nor is a value that the
    camera sets itself on both sides.
    """
    messages = []
    for key in KEYS:
        before, now = getattr(stored, key), getattr(actual, key)
        if before is None or now is None:
            continue
        switch = _AUTOMATIC.get(key)
        if switch and getattr(stored, switch) and getattr(actual, switch):
            continue
        if not _same(key, before, now):
            messages.append(f"{key} is {_text(now)} instead of {_text(before)}")
    return messages


def _same(key: str, before: Any, now: Any) -> bool:
    if isinstance(before, (bool, str)) or key in _WHOLE:
        return bool(before == now)
    return math.isclose(before, now, rel_tol=_TOLERANCE.get(key, _USUAL_TOLERANCE), abs_tol=1e-6)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _from_text(key: str, text: str) -> Any:
    if key.startswith("auto_"):
        return {"on": True, "1": True, "true": True, "off": False, "0": False, "false": False}.get(text.lower(), text)
    if key == "pixel_format":
        return text
    try:
        return int(text) if key in _WHOLE else float(text)
    except ValueError:
        return text


def _checked(key: str, value: Any, where: str) -> Any:
    if value is None:
        return None
    if key.startswith("auto_"):
        good, allowed = isinstance(value, bool), "on or off"
    elif key == "pixel_format":
        good, allowed = isinstance(value, str) and 0 < len(value) <= 32 and value.isprintable(), "a short name"
    else:
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        whole = key not in _WHOLE or (number and value == int(value) and value > 0)
        good, allowed = number and whole and value >= (0 if key not in ("gain",) else -1e6), "a number of 0 or more"
    if not good:
        raise BadInput(f"{where}: {key}={value!r} must be {allowed}")
    return (
        int(value)
        if key in _WHOLE
        else float(value)
        if isinstance(value, int) and not isinstance(value, bool)
        else value
    )


NAME = "camera.json"
FORMAT = 1


@dataclass(frozen=True)
class CameraRecord:
    """The camera's name (free of credentials), its settings as read back, the size (height, width) of its images,
    which conversion they got, when the first was taken, and how many were kept and skipped, by reason.
    """

    camera: str
    settings: CameraSettings
    size: tuple[int, int]
    conversion: str
    created: str
    images: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "format": FORMAT,
            "camera": self.camera,
            "settings": self.settings.to_json(),
            "size": list(self.size),
            "conversion": self.conversion,
            "created": self.created,
            "pictures": self.images,
            "skipped": dict(self.skipped),
        }

    @classmethod
    def from_json(cls, value: Any, where: str = NAME) -> CameraRecord:
        """Read what ``to_json`` wrote; BadInput when it is anything else."""
        try:
            if value["format"] != FORMAT:
                raise ValueError(f"format {value['format']}")
            height, width = (int(side) for side in value["size"])
            return cls(
                str(value["camera"]),
                CameraSettings.from_json(value["settings"], where),
                (height, width),
                str(value["conversion"]),
                str(value["created"]),
                int(value["pictures"]),
                {str(reason): int(count) for reason, count in dict(value["skipped"]).items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{where} is damaged ({type(error).__name__}: {error}): delete it or capture again"
            ) from error


def read_record(folder: Path) -> CameraRecord | None:
    """Return the record of a folder of images, None where there is none; BadInput for a damaged one."""
    path = folder / NAME
    try:
        value = json.loads(read_regular(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}; delete it or capture again") from error
    return CameraRecord.from_json(value, str(path))


def write_record(folder: Path, record: CameraRecord) -> None:
    """Write camera.json into a folder."""
    atomic_write(folder / NAME, json.dumps(record.to_json(), indent=2) + "\n")
