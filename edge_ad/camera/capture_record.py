"""camera.json: with which camera, set to what, the images beside it were taken."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_ad.camera.settings import CameraSettings
from edge_ad.errors import BadInput
from edge_ad.utils.files import atomic_write, read_regular

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
