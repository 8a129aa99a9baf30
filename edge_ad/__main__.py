"""`python -m edge_ad` is the command `edge-ad`."""

from __future__ import annotations

import sys

from edge_ad.cli.app import main

if __name__ == "__main__":
    sys.exit(main())
