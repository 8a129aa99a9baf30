"""Threads of torch that wait must not take a core from others for long."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WATCH = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("GOMP_SPINCOUNT"))
            sys.meta_path.remove(self)

sys.meta_path.insert(0, Watch())
from edge_ad.training.train import train
"""
NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "None")],
    ids=["nothing set", "a count of the user", "a policy of the user"],
)
def test_waiting_is_short_before_torch_is_loaded_unless_the_user_says_otherwise(given: dict[str, str], spins: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in NAMES} | given
    done = subprocess.run([sys.executable, "-c", WATCH], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{spins}\n"
