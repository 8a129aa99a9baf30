"""Where training runs and in which arithmetic."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from edge_ad.training.distributed import ALONE, ProcessGroup, join


@dataclass(frozen=True)
class Arithmetic:
    """The device, whether matrix products may run in bfloat16 (only where the hardware has it), and who trains along.
    """

    device: torch.device
    low_precision: bool
    group: ProcessGroup = ALONE

    def autocast(self) -> AbstractContextManager[object]:
        """Return a context in which matrix products and convolutions use the cheaper type."""
        if not self.low_precision:
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    @property
    def name(self) -> str:
        """Short description for reports, for example ``cpu bfloat16``."""
        return f"{self.device.type} {'bfloat16' if self.low_precision else 'float32'}"


def choose_arithmetic(low_precision: bool) -> Arithmetic:
    """Take a CUDA GPU if there is one, each process of a group its own; bfloat16 only if asked for and native to it."""
    group = join()
    if torch.cuda.is_available():
        device = group.device if group.size > 1 else torch.device("cuda")
        return Arithmetic(device, low_precision and torch.cuda.is_bf16_supported(), group)
    return Arithmetic(torch.device("cpu"), low_precision and _cpu_has_bfloat16(), group)


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
