"""The GPU through pycuda: one device, its primary context, a stream, memory and events; errors as DeviceFault.

TensorRT uses the primary context too, so both see the same memory. On a Tegra (an integrated GPU) host memory that is
pinned and mapped is the device's memory as well: nothing is copied there. pycuda aborts the process when a thread ends
with a context on its stack, so the context is pushed for the time of a call only.
"""

from __future__ import annotations

from atexit import register as at_exit
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_ad.engines.tensorrt.progress import MEMORY_ADVICE
from edge_ad.errors import DeviceFault, require
from edge_ad.utils.board import is_jetson

_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no hidden waits for the default stream
_CONTEXTS: dict[int, Any] = {}  # retained until the process ends: TensorRT keeps things in them that outlive a pipeline

Bytes = NDArray[np.uint8]


def _retained(number: int, card: Any) -> Any:
    """Return the primary context of a card, retained once and released when the process ends.

    Left to its destructor, pycuda would call cuCtxDetach, which is not for primary contexts, and print a warning.
    """
    if number not in _CONTEXTS:
        _CONTEXTS[number] = card.retain_primary_context()
        at_exit(_CONTEXTS[number].detach)
    return _CONTEXTS[number]


class DeviceMemory:
    """Bytes on the device at a fixed ``address``, zero-filled."""

    def __init__(self, device: Device, size: int) -> None:
        self._memory = device.driver.mem_alloc(size)
        self.address = int(self._memory)
        self.size = size
        device.driver.memset_d8_async(self.address, 0, size, device.stream)

    def free(self) -> None:
        """Give the memory back; calling it again does nothing."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.free()


class PinnedMemory:
    """Bytes of the host that cannot be paged out, zero-filled, as ``array``; ``address`` is where the device sees them.
    """

    def __init__(self, device: Device, size: int) -> None:
        mapped = device.driver.host_alloc_flags.DEVICEMAP
        self.array: Bytes = device.driver.pagelocked_empty(size, np.uint8, mem_flags=mapped)
        self._memory = self.array.base
        self.address = int(self._memory.get_device_pointer())
        self.size = size
        self.array[:] = 0

    @property
    def freed(self) -> bool:
        """Whether the memory was given back; views of ``array`` must not be used then."""
        return self._memory is None

    def free(self) -> None:
        """Give the memory back; calling it again does nothing."""
        memory, self._memory, self.array = self._memory, None, np.empty(0, np.uint8)
        if memory is not None:
            memory.free()


class Device:
    """One GPU with its primary context and one stream of its own.

    ``name``; ``sm``, its compute capability such as ``8.7``; ``cuda``, what the driver supports such as ``12.6``;
    ``integrated``, whether host and device share memory. Every method must run inside ``with device.active():``.
    """

    def __init__(self, number: int = 0) -> None:
        extra = "jetson" if is_jetson() else "gpu"
        self.driver: Any = require("pycuda.driver", extra=extra, needed_by="the tensorrt backend")
        with self._faults("start"):
            self.driver.init()
            card = self.driver.Device(number)
            self.name = str(card.name())
            self.sm = ".".join(str(part) for part in card.compute_capability())
            self.integrated = bool(card.get_attribute(self.driver.device_attribute.INTEGRATED))
            version = int(self.driver.get_driver_version())
            self._context = _retained(number, card)
        self.cuda = f"{version // 1000}.{version % 1000 // 10}"
        with self.active():
            self._stream = self.driver.Stream(_NON_BLOCKING)
        self.handle = int(self._stream.handle)

    @property
    def stream(self) -> Any:
        """The stream of this device; DeviceFault once it is closed."""
        if self._stream is None:
            raise DeviceFault("the GPU is closed; open the pipeline again")
        return self._stream

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make the context current in this thread for a while; errors of CUDA inside leave as DeviceFault."""
        with self._faults("work"):
            self._context.push()
            try:
                yield
            finally:
                self._pop()

    def release(self, free: Callable[[], None]) -> None:
        """Call ``free``, which gives things back, once nothing uses them any more; errors of CUDA are let pass.

        Whoever lost the device was told so by the call that met it; what cannot be freed then ends with the process.
        pycuda's objects must be dropped in here: elsewhere their destructors make the context current by themselves,
        and end the process where that fails.
        """
        try:
            with self.active():
                if self._stream is not None:
                    with suppress(self.driver.Error):
                        self._stream.synchronize()
                free()
        except DeviceFault:
            with suppress(self.driver.Error):
                free()

    def close(self) -> None:
        """Give the stream back; calling it again does nothing."""
        if self._stream is not None:
            self.release(self._drop_stream)

    def _drop_stream(self) -> None:
        self._stream = None

    def _pop(self) -> None:
        """Make the context uncurrent; where that fails once, try again, since pycuda ends a process that leaves one."""
        try:
            self._context.pop()
        except self.driver.Error:
            self._context.pop()
            raise

    def free_memory(self) -> int:
        """Return the bytes of device memory that are free."""
        return int(self.driver.mem_get_info()[0])

    def allocate(self, size: int) -> DeviceMemory:
        """Return device memory."""
        return DeviceMemory(self, size)

    def allocate_pinned(self, size: int) -> PinnedMemory:
        """Return pinned, mapped host memory."""
        return PinnedMemory(self, size)

    def upload(self, address: int, source: Bytes) -> None:
        """Enqueue a copy to the device; ``source`` is pinned or must live until ``synchronize``."""
        self.driver.memcpy_htod_async(address, source, self.stream)

    def download(self, target: Bytes, address: int) -> None:
        """Enqueue a copy from the device; ``target`` is pinned or must live until ``synchronize``."""
        self.driver.memcpy_dtoh_async(target, address, self.stream)

    def synchronize(self) -> None:
        """Wait for everything that was enqueued."""
        self.stream.synchronize()

    def event(self) -> Any:
        """Return an event that can be recorded in the stream and asked for times."""
        return self.driver.Event()

    @contextmanager
    def _faults(self, what: str) -> Iterator[None]:
        try:
            yield
        except self.driver.MemoryError as error:
            raise DeviceFault(f"the GPU has no memory left ({error}): {MEMORY_ADVICE}") from error
        except self.driver.Error as error:
            raise DeviceFault(
                f"the GPU does not {what}: {' '.join(str(error).split())}; `sudo dmesg` may tell why"
            ) from error
