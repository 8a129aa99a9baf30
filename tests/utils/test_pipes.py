"""A pipe in the place of a file is refused; nothing waits for somebody to write into it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

READS = {
    "a.png": "from edge_ad.camera.sources import open_source; open_source('a.png').read(1.0)",
    "a.mp4": "from edge_ad.camera.sources import open_source; open_source('a.mp4').read(1.0)",
    "image.png": "from edge_ad.data.images import read_image; read_image(Path('image.png'))",
    "b.edgead": "from edge_ad.bundle import open_bundle; open_bundle('b.edgead')",
    "edge-ad.toml": "from edge_ad.config import load_config; load_config()",
    "camera.json": "from edge_ad.camera.settings import CameraRecord, read_record; read_record(Path('.'))",
    "plan.json": "from edge_ad.deployment.int8 import read_plan; read_plan(Path('plan.json'))",
    "signature.json": "from edge_ad.engines.engine_store import read; read(Path('signature.json'), 'rebuild')",
}
CODE = """
from pathlib import Path
from edge_ad.errors import BadInput
try:
    {read}
except BadInput as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("name", list(READS))
def test_a_pipe_is_refused(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(read=READS[name])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.startswith("refused:")
