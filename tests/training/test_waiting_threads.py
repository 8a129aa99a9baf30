"""What a training asks of its process: threads that wait take no core from others for long, and memory is not cleared anew."""

from __future__ import annotations

import os
import platform
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
def test_waiting_is_short_before_torch_is_loaded_unless_the_user_sets_otherwise(given: dict[str, str], spins: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key not in NAMES} | given
    done = subprocess.run([sys.executable, "-c", WATCH], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{spins}\n"


FAULTS = """
import resource
import edge_ad.training
import torch
from edge_ad.training.loop import choose_arithmetic

choose_arithmetic(False)
torch.set_num_threads(1)
counts = []
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)  # 64 MiB
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(counts[-1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is asked to keep memory")
def test_a_training_gets_large_maps_from_memory_that_it_has() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # of 16,384 pages of 4 KiB
