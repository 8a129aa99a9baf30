"""What a backend must offer: engines with named tensors that are bound once and then only run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge_ad.errors import BadInput, DeviceFault


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype (a numpy name such as ``float32``, ``uint8`` or ``int32``) and static shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.shape)}"


class Tensor(Protocol):
    """Memory of one tensor at a fixed address, owned by a backend and shared by the engines that it is bound to."""

    @property
    def spec(self) -> TensorSpec: ...

    @property
    def address(self) -> int:
        """The address of the first byte; it never changes."""
        ...

    def write(self, value: NDArray[Any]) -> None:
        """Copy ``value`` (same shape and dtype as the spec) into the tensor."""
        ...

    def read(self) -> NDArray[Any]:
        """Return a copy of the tensor that later runs do not change."""
        ...


class Engine(ABC):
    """One compiled graph. ``bind`` every input and output once, then ``run`` as often as wanted; close or use ``with``.

    The public methods check their arguments and the state; a backend implements only the ``_..._impl`` methods.
    """

    def __init__(self, name: str, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> None:
        self.name = name
        self.inputs = MappingProxyType(dict(inputs))
        self.outputs = MappingProxyType(dict(outputs))
        self._bound: dict[str, Tensor] = {}
        self._ready = False
        self._closed = False

    def bind(self, name: str, tensor: Tensor) -> None:
        """Use ``tensor`` as the input or output ``name``; BadInput when the name, dtype or shape does not fit."""
        wanted = self.inputs.get(name) or self.outputs.get(name)
        if wanted is None:
            known = ", ".join([*self.inputs, *self.outputs])
            raise BadInput(f"graph {self.name!r} has no tensor {name!r}; it has {known}")
        if (wanted.dtype, wanted.shape) != (tensor.spec.dtype, tensor.spec.shape):
            raise BadInput(f"graph {self.name!r} wants {wanted}, but is given {tensor.spec}; train the bundle again")
        self._bind_impl(name, tensor, is_input=name in self.inputs)
        self._bound[name] = tensor
        self._ready = len(self._bound) == len(self.inputs) + len(self.outputs)

    def bound(self, name: str) -> Tensor:
        """Return the tensor that ``name`` is bound to; KeyError when it is not bound."""
        return self._bound[name]

    def run(self) -> None:
        """Run once on the bound tensors; DeviceFault when the device fails, something is unbound or it is closed."""
        if self._closed or not self._ready:
            missing = ", ".join(name for name in [*self.inputs, *self.outputs] if name not in self._bound)
            reason = "is closed" if self._closed else f"has unbound tensors: {missing}"
            raise DeviceFault(f"engine {self.name!r} {reason}; open the pipeline again")
        self._run_impl()

    def close(self) -> None:
        """Free the engine; calling it again does nothing."""
        if not self._closed:
            self._closed = True
            self._bound.clear()
            self._close_impl()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def _bind_impl(self, name: str, tensor: Tensor, is_input: bool) -> None: ...

    @abstractmethod
    def _run_impl(self) -> None: ...

    @abstractmethod
    def _close_impl(self) -> None: ...


class FrameExecutor(Protocol):
    """Everything of one frame, wired for good: upload, every engine, download."""

    def run(self, image: NDArray[np.uint8]) -> dict[str, float]:
        """Take ``image`` u8 [1, H, W, 3] to results that can be read; return the milliseconds of each stage."""
        ...

    def close(self) -> None:
        """Free what the frame holds of its own; calling it again does nothing."""
        ...


class Backend(Protocol):
    """Makes engines and the tensors that wire them."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def suffix(self) -> str:
        """The end of the names of its engine files."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return what an engine of this backend depends on besides the version, as plain values for JSON."""
        ...

    def load(self, name: str, graph: bytes) -> Engine:
        """Open an engine; BadInput when it is not one this backend can run."""
        ...

    def allocate(self, spec: TensorSpec) -> Tensor:
        """Return a zero-filled tensor that stays on the device."""
        ...

    def exchange(self, specs: Sequence[TensorSpec]) -> list[Tensor]:
        """Return zero-filled tensors that the host writes or reads every frame, in one piece of memory."""
        ...

    def frame(self, engines: Mapping[str, Engine], image: Tensor, results: Sequence[Tensor]) -> FrameExecutor:
        """Return a frame over bound ``engines`` in their order; ``image`` and ``results`` are of ``exchange``."""
        ...

    def close(self) -> None:
        """Free the memory of all tensors; calling it again does nothing."""
        ...


def check_image(image: object, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return ``image`` if it is u8 [H, W, 3] of ``size`` (H, W); otherwise raise BadInput that says what is allowed."""
    height, width = size
    allowed = f"allowed is uint8 [{height}, {width}, 3] RGB: resize it with edge_ad.data.images.resize"
    if not isinstance(image, np.ndarray):
        raise BadInput(f"the image is a {type(image).__name__}; {allowed}")
    if image.dtype != np.uint8 or image.shape != (height, width, 3):
        raise BadInput(f"the image is {image.dtype} {list(image.shape)}; {allowed}")
    return image
