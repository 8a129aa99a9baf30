"""One door to every source: a URI in, a Source out."""

from __future__ import annotations

from pathlib import Path

from edge_ad.camera.frames import Source
from edge_ad.camera.uri import existing, parse_uri
from edge_ad.data.images import SUFFIXES

IMAGES_FPS = 10.0


def open_source(uri: str, realtime: bool = False) -> Source:
    """Open a camera number or device, a video file, an image, a folder of images, ``file://`` or ``synthetic://line``.

    With ``realtime`` files and synthetic sources come at their nominal rate (images: 10 a second), as from a camera.
    Raises BadInput for a URI, file or folder that cannot be a source, DeviceFault for a camera that does not open.
    """
    address = parse_uri(uri)
    if address.kind == "device":
        from edge_ad.camera.device import DeviceCamera

        return DeviceCamera(address.target, address.name)
    if address.kind == "synthetic":
        from edge_ad.camera.synthetic import open_synthetic

        return open_synthetic(address.target, address.name, realtime)
    return _from_path(existing(Path(address.target).expanduser()), address.name, realtime)


def _from_path(path: Path, name: str, realtime: bool) -> Source:
    from edge_ad.camera.files import ImageFiles, VideoFile
    from edge_ad.camera.pacing import Paced

    images = path.is_dir() or path.suffix.lower() in SUFFIXES
    source: Source = ImageFiles(path, name) if images else VideoFile(path, name)
    return Paced(source, source.fps or IMAGES_FPS) if realtime else source
