"""`edge-ad run` whose engines hang for good once the file named by HANG_WHEN exists."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from edge_ad.cli.app import main
from edge_ad.engines.pipeline import Pipeline
from edge_ad.utils.supervision import leave

_infer = Pipeline.infer


def infer(self: Pipeline, image: Any) -> Any:
    while Path(os.environ["HANG_WHEN"]).exists():
        time.sleep(0.05)
    return _infer(self, image)


Pipeline.infer = infer  # type: ignore[method-assign]

if __name__ == "__main__":
    leave(main())
