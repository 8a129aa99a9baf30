"""Nothing leaves the line unasked."""

from __future__ import annotations

import os
import subprocess
import sys


def test_onnx_runtime_starts_no_thread_that_reports_to_its_maker() -> None:
    code = "import os, edge_ad, onnxruntime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"
