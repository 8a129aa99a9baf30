"""`python -m edge_ad` is the command `edge-ad`."""

from __future__ import annotations

from edge_ad.cli.app import entry

if __name__ == "__main__":
    entry()
