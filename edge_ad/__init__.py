"""edge-ad: train an inspector from good parts only and run it on an embedded GPU."""

import os

__version__ = "0.1.0"

# Read by ONNX Runtime when it is first imported: its wheels for Linux report to their maker otherwise, in threads of their
# own. Nothing leaves the line unasked; whoever wants it sets 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
