"""Tensors of a GPU: those that stay on the device, and those that the host writes or reads in every frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.engines.protocol import TensorSpec
from edge_ad.engines.tensorrt.cuda import Device, DeviceMemory, PinnedMemory
from edge_ad.errors import DeviceFault

_ALIGNMENT = 256  # as cudaMalloc aligns


class DeviceTensor:
    """A tensor in device memory. ``write`` and ``read`` copy and wait: for constants and for looking, not for frames.
    """

    def __init__(self, spec: TensorSpec, address: int, device: Device) -> None:
        self.spec = spec
        self.address = address
        self._device = device

    def write(self, value: NDArray[Any]) -> None:
        """Copy ``value`` to the device."""
        array = np.empty(self.spec.shape, self.spec.dtype)
        np.copyto(array, value, casting="no")
        with self._device.active():
            self._device.upload(self.address, array.reshape(-1).view(np.uint8))
            self._device.synchronize()

    def read(self) -> NDArray[Any]:
        """Return a copy of what is on the device."""
        array = np.empty(self.spec.shape, self.spec.dtype)
        with self._device.active():
            self._device.download(array.reshape(-1).view(np.uint8), self.address)
            self._device.synchronize()
        return array


class Block:
    """Pinned host memory ``host`` and its twin on the device at ``address``: the same bytes where memory is shared."""

    def __init__(self, device: Device, size: int) -> None:
        self.pinned = device.allocate_pinned(size)
        self.twin = None if device.integrated else device.allocate(size)
        self.address = self.pinned.address if self.twin is None else self.twin.address
        self._device = device

    @property
    def memory(self) -> list[DeviceMemory | PinnedMemory]:
        """What must be freed."""
        return [self.pinned] if self.twin is None else [self.pinned, self.twin]

    def upload(self) -> None:
        """Enqueue the copy to the device, if there is anything to copy."""
        if self.twin is not None:
            self._device.upload(self.twin.address, self.pinned.array)

    def download(self) -> None:
        """Enqueue the copy from the device, if there is anything to copy."""
        if self.twin is not None:
            self._device.download(self.pinned.array, self.twin.address)


class ExchangeTensor:
    """A view of a block. ``write`` and ``read`` touch host memory only; the frame moves the block."""

    def __init__(self, spec: TensorSpec, block: Block, offset: int) -> None:
        self.spec = spec
        self.block = block
        self.address = block.address + offset
        end = offset + spec_bytes(spec)
        self._array = block.pinned.array[offset:end].view(spec.dtype).reshape(spec.shape)

    def write(self, value: NDArray[Any]) -> None:
        """Copy ``value`` into the block without allocating; DeviceFault once the block is freed."""
        np.copyto(self._host_copy(), value, casting="no")

    def read(self) -> NDArray[Any]:
        """Return a copy of what the last frame left; DeviceFault once the block is freed."""
        return self._host_copy().copy()

    def _host_copy(self) -> NDArray[Any]:
        if self.block.pinned.freed:
            raise DeviceFault(f"the memory of {self.spec.name!r} was given back; open the pipeline again")
        return self._array


def exchange(
    device: Device, specs: Sequence[TensorSpec]
) -> tuple[list[ExchangeTensor], list[DeviceMemory | PinnedMemory]]:
    """Return tensors that lie in one block, one after the other, and the memory that they need."""
    offsets, end = [], 0
    for spec in specs:
        offsets.append(end)
        end += -(-spec_bytes(spec) // _ALIGNMENT) * _ALIGNMENT
    block = Block(device, end)
    return [ExchangeTensor(spec, block, offset) for spec, offset in zip(specs, offsets, strict=True)], block.memory


def spec_bytes(spec: TensorSpec) -> int:
    """Return the size of a tensor in bytes."""
    return int(np.prod(spec.shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize
