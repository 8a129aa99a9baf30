"""`edge-ad init`: the settings file, from a few answers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_DATA, DEFAULT_CAMERA, DEFAULT_PRESET = "data/good", "0", "fast"


def command(
    *,
    data: Annotated[str | None, typer.Option(help="Folder with images of good parts.")] = None,
    camera: Annotated[str | None, typer.Option(help="Camera index, video file, image folder or URI.")] = None,
    preset: Annotated[str | None, typer.Option(help="demo, fast, paper or paper-m.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take the defaults.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an edge-ad.toml.")] = False,
) -> None:
    """Write edge-ad.toml into the current folder, so that train, build-engine and run need no arguments."""
    from edge_ad.config import CONFIG_NAME
    from edge_ad.errors import BadInput
    from edge_ad.presets.presets import PRESETS
    from edge_ad.utils.files import atomic_write

    path = Path(CONFIG_NAME)
    if path.exists() and not force:
        raise BadInput(f"{path} exists already: edit it, or overwrite it with --force")
    data = data or _ask("Folder with images of good parts", DEFAULT_DATA, yes)
    camera = camera or _ask("Camera (index, video file, image folder or URI)", DEFAULT_CAMERA, yes)
    preset = preset or _ask(f"Preset ({', '.join(PRESETS)})", DEFAULT_PRESET, yes)
    if preset not in PRESETS:
        raise BadInput(f"unknown preset {preset!r}: choose one of {', '.join(PRESETS)}")
    atomic_write(path, render(data, camera, preset))
    typer.echo(f"wrote {path}")
    if not Path(data).is_dir():
        typer.echo(
            f"{data} is not there yet: put images of good parts into it, or `edge-ad capture --out {data}` takes them"
        )
    typer.echo("next: edge-ad train, then edge-ad build-engine --fp16, then edge-ad run")


def _ask(question: str, default: str, yes: bool) -> str:
    from edge_ad.errors import BadInput

    if yes:
        return default
    print(f"{question} [{default}]: ", end="", flush=True)
    answer = sys.stdin.readline()
    if not answer:
        raise BadInput("no answer to read: give --data, --camera and --preset, or take the defaults with --yes")
    return answer.strip() or default


def render(data: str, camera: str, preset: str) -> str:
    """Return the text of edge-ad.toml with the three answers; the other keys stand at their defaults."""
    # Strings of JSON without ASCII escapes are strings of TOML.
    data, camera, preset = (json.dumps(text, ensure_ascii=False) for text in (data, camera, preset))
    return f"""\
# Settings of this station. Every flag of the commands is also a key here; a flag wins over its key.

[data]
path = {data}

[train]
preset = {preset}
seed = 0

[thresholds]
target_ng = 0.01    # at most this share of normal parts NG
target_warn = 0.05  # at most this share of normal parts WARN or NG

[run]
camera = [{camera}]
"""
