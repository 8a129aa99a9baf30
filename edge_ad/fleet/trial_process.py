"""The process of a trial: builds the engines of a bundle, proves them, judges known images, then what it is shown.

`python -m edge_ad.fleet.trial_process FD` speaks through the socket FD. It stays on one core at the lowest priority, and is
the first that a machine without memory ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_ad.errors import BadInput, EdgeAdError, GateRefused
from edge_ad.fleet.trial import Messages
from edge_ad.utils.text import storable

if TYPE_CHECKING:
    from edge_ad.config import Config
    from edge_ad.inspection.products import Product

MAX_IMAGES = 500
_PR_SET_PDEATHSIG = 1


def main(descriptor: int) -> int:
    """Answer until the run closes its end."""
    _step_back()
    messages = Messages(socket.socket(fileno=descriptor))
    asked = messages.receive()
    if asked is None:
        return 0
    try:
        product = prove(asked[0], lambda text: messages.send({"kind": "progress", "text": storable(text, 300)}))
    except Exception as error:
        text = str(error) if isinstance(error, EdgeAdError) else f"{type(error).__name__}: {error}"
        messages.send({"kind": "refused", "reason": " ".join(text.split())})
        return 4
    messages.send({"kind": "proved"})
    with contextlib.closing(product):
        while (shown := messages.receive()) is not None:
            began = time.monotonic()
            verdicts = judge(product, shown[1], str(shown[0]["part"]), str(shown[0]["camera"]))
            messages.send({"kind": "verdict", "verdicts": verdicts, "seconds": time.monotonic() - began})
    return 0


def _step_back() -> None:
    """Leave the machine to the line: one core, the lowest priority, the first to go, and gone with the run."""
    os.nice(19)
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def prove(asked: dict[str, Any], report: Callable[[str], None]) -> Product:
    """Return the product with proven engines, as ``Trial`` asks for it; GateRefused, BadInput or DeviceFault as a step refuses."""
    from edge_ad.bundle import open_bundle
    from edge_ad.config import Config
    from edge_ad.deployment.build import build
    from edge_ad.inspection.products import Product

    settings = _alone(Config.model_validate(asked["settings"]))
    bundle = open_bundle(Path(asked["bundle"]))
    report("building engines")
    built = build(bundle, asked["precision"], asked["backend"], settings.engine, report=report)
    if built.refusal is not None:
        raise GateRefused(f"its engines are refused: {built.refusal}")
    report("judging golden images")
    product = Product(None, settings, bundle)
    product.open()
    if asked["images"] is not None:
        report("judging known images")
        _check_images(product, Path(asked["images"]))
    return product


def _alone(settings: Config) -> Config:
    """Return the settings of a run that infers one image at a time."""
    return settings.model_copy(update={"run": settings.run.model_copy(update={"streams": 1})})


def _check_images(product: Product, folder: Path) -> None:
    """Judge the known images of a folder; GateRefused names the first that is not judged as it must be."""
    from edge_ad.data.images import list_images, read_image

    count = 0
    for kind in ("good", "bad"):
        if not (folder / kind).is_dir():
            continue
        for path in list_images(folder / kind)[:MAX_IMAGES]:
            verdicts = judge(product, read_image(path, product.bundle.image_bits), path.name, "known images")
            count += 1
            if (kind == "bad") != ("NG" in verdicts) or (kind == "good" and "NONE" in verdicts):
                must = "NG" if kind == "bad" else "OK or WARN"
                raise GateRefused(f"the known image {kind}/{path.name} is called {verdicts[0]} and must be {must}")
    if not count:
        raise BadInput(f"there is no image in {folder}/good or {folder}/bad: put some there, or leave `images` of [fleet] out")


def judge(product: Product, image: Any, part: str, camera: str) -> list[str]:
    """Return the verdicts on an image, as the run would give them but for its age."""
    from edge_ad.camera.frames import Frame
    from edge_ad.inspection.part_tracking import Judgeable

    now = time.monotonic()
    frame = Frame(image, 0, now, time.time(), camera, part)
    return [result.event.verdict for result in product.judge.judge(camera, Judgeable(frame, now), False)]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
