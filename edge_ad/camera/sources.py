"""One door to every source: a URI in, a Source out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edge_ad.camera.driver import Driver, Opener
from edge_ad.camera.frames import Source
from edge_ad.camera.live import Live, Patience
from edge_ad.camera.settings import ADJUSTABLE, NO_NODE, CameraSettings, parse_settings
from edge_ad.camera.uri import Address, existing, parse_uri
from edge_ad.data.images import SUFFIXES
from edge_ad.errors import DeviceFault
from edge_ad.utils.files import expanded
from edge_ad.utils.text import MAX_NAME, storable

IMAGES_FPS = 10.0


def open_source(
    uri: str,
    realtime: bool = False,
    *,
    settings: CameraSettings | None = None,
    patient: bool = False,
    lag_s: float | None = Patience.lag_s,
    image_bits: int = 16,
) -> Source:
    """Open any source that ``edge_ad.camera.uri.ALLOWED`` lists.

    With ``realtime`` files and synthetic sources come at their nominal rate (images: 10 a second), as from a camera.
    ``settings`` are applied to a live camera where its URI does not say otherwise. A live camera that does not open
    raises DeviceFault; with ``patient`` it is returned nevertheless and tried again at every read. One whose images
    arrive more than ``lag_s`` late is opened again; None: its clock is not looked at. ``image_bits`` is how 16-bit
    files are read, see ``read_image``. Raises BadInput for a URI, file or folder that cannot be a source.
    """
    address = parse_uri(uri)
    address = replace(address, name=storable(address.name, MAX_NAME))
    if address.kind in ("synthetic", "faults"):
        from edge_ad.camera.synthetic import open_faults, open_synthetic

        opened = open_faults if address.kind == "faults" else open_synthetic
        return opened(address.target, address.name, realtime)
    if address.kind == "belt":
        from edge_ad.camera.synthetic import open_belt

        return open_belt(address.target, address.name, realtime)
    if address.kind == "watch":
        return _watched(address, image_bits)
    if address.kind == "path":
        return _from_path(existing(expanded(Path(address.target))), address.name, realtime, image_bits)
    return _live(address, settings, patient, lag_s)


def adjustable(uri: str) -> tuple[str, ...]:
    """Return the settings that a camera may take while it gives images; none where its driver has no way to set them."""
    kind = parse_uri(uri).kind
    if kind in ("genicam", "aravis"):
        return tuple(key for key in ADJUSTABLE if key not in NO_NODE)
    return ADJUSTABLE if kind == "device" else ()


def _live(address: Address, settings: CameraSettings | None, patient: bool, lag_s: float | None) -> Source:
    open_s = _pipeline_open_s(address) + 2.0 if address.kind in ("gst", "csi") else Patience.open_s
    patience = Patience(open_s=open_s, lag_s=lag_s)
    camera = Live(_opener(address, settings or CameraSettings()), address.name, patience)
    try:
        camera.open()
    except DeviceFault:
        if not patient:
            raise
    return camera


def _opener(address: Address, settings: CameraSettings) -> Opener:
    """Return what opens a live camera; a wrong setting raises BadInput at once."""
    query, cti = _producer(address)
    asked = parse_settings(query, address.name)
    wanted = CameraSettings(**{**settings.to_json(), **asked.to_json()})

    def opened() -> Driver:
        if address.kind == "rtsp":
            from edge_ad.camera.rtsp import RtspDriver

            return RtspDriver(address.secret, address.name)
        if address.kind == "http":
            from edge_ad.camera.http import HttpDriver

            return HttpDriver(address.secret, address.name)
        if address.kind in ("gst", "csi"):
            return _pipeline(address, wanted)
        if address.kind == "genicam":
            from edge_ad.camera.genicam import HarvesterDriver

            return HarvesterDriver(address.target, address.name, wanted, cti)
        if address.kind == "aravis":
            from edge_ad.camera.aravis import AravisDriver

            return AravisDriver(address.target, address.name, wanted)
        from edge_ad.camera.device import DeviceDriver

        return DeviceDriver(address.target, address.name, wanted)

    return opened


def _pipeline(address: Address, wanted: CameraSettings) -> Driver:
    from edge_ad.camera.gstreamer import open_pipeline

    open_s = _pipeline_open_s(address)
    if address.kind == "gst":
        return open_pipeline(address.secret, address.name, open_s=open_s)
    from edge_ad.camera.gstreamer import csi_pipeline, csi_settings

    settings = csi_settings(wanted, address.name)
    return open_pipeline(csi_pipeline(address.target, settings), address.name, settings, open_s=open_s)


def _pipeline_open_s(address: Address) -> float:
    """Return how long the first image of a pipeline may take: longer where Argus is in it."""
    from edge_ad.camera import gstreamer

    return gstreamer.CSI_OPEN_S if address.kind == "csi" or gstreamer.SOURCE in address.secret else gstreamer.OPEN_S


def _producer(address: Address) -> tuple[str, str | None]:
    """Return the query without ``cti=FILE``, which belongs to GenICam alone, and that file."""
    pieces = address.query.split("&")
    producers = [piece[4:] for piece in pieces if address.kind == "genicam" and piece.startswith("cti=")]
    rest = [piece for piece in pieces if address.kind != "genicam" or not piece.startswith("cti=")]
    return "&".join(rest), producers[0] if producers else None


def _watched(address: Address, bits: int) -> Source:
    from edge_ad.camera.files import WatchedFolder
    from edge_ad.errors import BadInput

    folder = existing(expanded(Path(address.target)))
    if not folder.is_dir():
        raise BadInput(f"{address.name} names a file: write watch:FOLDER, and the images that appear in it are judged")
    return WatchedFolder(folder, address.name, bits)


def _from_path(path: Path, name: str, realtime: bool, bits: int) -> Source:
    from edge_ad.camera.files import ImageFiles, VideoFile
    from edge_ad.camera.frames import Paced

    images = path.is_dir() or path.suffix.lower() in SUFFIXES
    source: Source = ImageFiles(path, name, bits) if images else VideoFile(path, name)
    return Paced(source, source.fps or IMAGES_FPS) if realtime else source
