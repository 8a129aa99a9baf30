"""What a builder measured of its tactics, kept per TensorRT version and device: later builds are faster and alike."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edge_ad.errors import BadInput
from edge_ad.files import atomic_write, sha256_bytes

_DIGEST = 64


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/edge-ad``, by default ``~/.cache/edge-ad``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-ad"


class TimingCache:
    """One file: the SHA-256 of the content in hexadecimal, then the content. A damaged file counts as empty."""

    def __init__(self, version: str, device: str, folder: Path | None = None) -> None:
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"timing-{version}-{device}").strip("-").lower()
        self.path = (folder or cache_folder()) / f"{name}.bin"

    def read(self) -> bytes:
        """Return the content, empty where there is none."""
        try:
            data = self.path.read_bytes()
        except OSError:
            return b""
        content = data[_DIGEST:]
        return content if data[:_DIGEST] == sha256_bytes(content).encode() else b""

    def write(self, content: bytes) -> None:
        """Replace the content; a folder that cannot be written only costs time later."""
        try:
            atomic_write(self.path, sha256_bytes(content).encode() + content)
        except BadInput:
            return
