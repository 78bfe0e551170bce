"""A GPU for machines without one: CPU tensors that say they are on cuda:0, and obey its rules.

`OnGPU` holds its values like any tensor, so results are those of the CPU to the last bit. What a GPU would refuse is
refused: meeting a tensor of the CPU, turning into an array, drawing from a generator of the CPU. What would make the
host wait for it is noted, with the line that asked: reading a value, shapes that depend on values, copies in either
direction other than those from pinned memory that do not block.

It sees the calls that Python code makes, not what torch's own functions do inside. Kernels, streams and speed of a real
GPU it knows nothing about.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch._dynamo  # torch imports it on first use, which must not happen while torch is patched
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
READING = {
    "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "__format__", "nonzero", "argwhere", "unique",
    "_unique2", "unique_consecutive", "masked_select", "bincount", "equal", "allclose", "is_nonzero", "histc",
}  # fmt: skip
ATTRIBUTES = {"device": GPU, "is_cuda": True, "is_cpu": False}


class OnGPU(Tensor):
    """A tensor on the pretended GPU."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as what `torch.load(map_location="cpu")` makes of it."""
        with torch._C.DisableTorchFunction():
            return _taken(self).__reduce_ex__(protocol)


class Wait(NamedTuple):
    """The host waited for the GPU: why, and where, innermost call of imcil first."""

    why: str
    where: tuple[str, ...]


class PretendedGPU(TorchFunctionMode):
    """While it is entered, `.to("cuda")` leads to `OnGPU` tensors; `waits` tells of every time the host waited."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[Wait] = []
        self._pinned: dict[int, weakref.ref[Tensor]] = {}  # by address

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunction():
            return self.call(function, args, kwargs or {})

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(function, "__name__", "")
        if name == "__get__" and isinstance(args[0], OnGPU) and function.__self__.__name__ in ATTRIBUTES:
            return ATTRIBUTES[function.__self__.__name__]
        if name in OPERATIONS:
            return OPERATIONS[name](self, *args, **kwargs)
        return self._compute(name, function, args, kwargs)

    def _compute(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(isinstance(tensor, OnGPU) for tensor in tensors)
        if on_gpu:
            others = [tensor for tensor in tensors if not isinstance(tensor, OnGPU) and tensor.dim()]
            if others:
                self._mixed(name, args, others)
            if name in READING or self._shaped_by_values(name, args, kwargs):
                self.wait(name)
        pinned = kwargs.pop("pin_memory", False)
        if kwargs.get("device") is not None:
            to_gpu = _is_gpu(kwargs["device"])
            if to_gpu and not on_gpu and name in ("tensor", "as_tensor"):
                self.wait("values from the host")
            on_gpu, kwargs = to_gpu, {**kwargs, "device": CPU}
        generator = kwargs.get("generator")
        if generator is not None and getattr(generator, "on_gpu", False) != on_gpu:
            raise RuntimeError(f"{name}: tensor and generator are on different devices")
        found = function(*args, **kwargs)
        if pinned:
            self._pin(found)
        return tree_map(_placed if on_gpu else _taken, found)

    def _mixed(self, name: str, args: tuple[Any, ...], others: list[Tensor]) -> None:
        """CPU tensors among those of the GPU: allowed as an index, as what a slice is set to, and as what is copied."""
        indices = tree_leaves(args[1]) if name in ("__getitem__", "__setitem__") else []
        by_tensor = any(isinstance(index, Tensor) for index in indices)
        is_value = name == "__setitem__" and not by_tensor and all(one is args[2] for one in others)
        is_index = isinstance(args[0], OnGPU) and all(any(one is index for index in indices) for one in others)
        if not (is_value or is_index):
            raise RuntimeError(f"{name}: tensors on cuda:0 and on the CPU")
        self.wait(f"{name} with a tensor of the CPU")

    def _shaped_by_values(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if name in ("__getitem__", "__setitem__"):
            return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in tree_leaves(args[1]))
        if name == "repeat_interleave":
            return isinstance(args[-1], Tensor) and kwargs.get("output_size") is None
        return name == "where" and len(args) == 1

    def wait(self, why: str) -> None:
        frame, where = sys._getframe(), []
        while frame := frame.f_back:  # type: ignore[assignment]
            if "/strategies/" in frame.f_code.co_filename:
                where.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")
        self.waits.append(Wait(why, tuple(where)))

    # --- what goes from one device to the other -------------------------------------------------------------------

    def to(self, tensor: Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> Tensor:
        place, rest = kwargs.pop("device", None), []
        for position, value in enumerate(args):
            if isinstance(value, Tensor):  # as that tensor is
                place, rest = GPU if isinstance(value, OnGPU) else CPU, [value.dtype]
            elif isinstance(value, str | torch.device):
                place = value
            elif position or value is not None:  # a first None stands for no device
                rest.append(value)
        was, becomes = isinstance(tensor, OnGPU), _is_gpu(place) if place is not None else isinstance(tensor, OnGPU)
        if was and not becomes:
            self.wait("copy to the CPU")
        if becomes and not was and not (non_blocking and self.is_pinned(tensor)):
            self.wait("copy from the CPU")
        found = tensor.to(CPU, *rest, **kwargs)
        if was != becomes and found is tensor:
            found = tensor.clone()
        return _placed(found) if becomes else _taken(found)

    def cpu(self, tensor: Tensor, **kwargs: Any) -> Tensor:
        return self.to(tensor, CPU, **kwargs)

    def copy_(self, target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if isinstance(target, OnGPU) != isinstance(source, OnGPU):
            self.wait("copy between devices")
        return target.copy_(source)

    def numpy(self, tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        if isinstance(tensor, OnGPU):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return tensor.__array__(*args, **kwargs) if args else tensor.numpy(**kwargs)

    def pin_memory(self, tensor: Tensor) -> Tensor:
        if isinstance(tensor, OnGPU):
            raise RuntimeError("only tensors on the CPU can be pinned")
        return self._pin(tensor.clone())

    def is_pinned(self, tensor: Tensor) -> bool:
        found = self._pinned.get(tensor.untyped_storage().data_ptr())
        return found is not None and found() is not None

    def _pin(self, tensor: Tensor) -> Tensor:
        self._pinned[tensor.untyped_storage().data_ptr()] = weakref.ref(tensor)
        return tensor

    def deepcopy(self, tensor: Tensor, memo: dict[int, Any]) -> Tensor:
        if not isinstance(tensor, OnGPU):
            return Tensor.__deepcopy__(tensor, memo)
        if id(tensor) not in memo:
            copied = _placed(tensor.detach().clone()).requires_grad_(tensor.requires_grad)
            if isinstance(tensor, torch.nn.Parameter):
                copied._is_param = True
            memo[id(tensor)] = copied
        return memo[id(tensor)]

    def fits_in_place(self, one: Tensor, other: Tensor) -> bool:
        return isinstance(one, OnGPU) == isinstance(other, OnGPU)


OPERATIONS: dict[str, Callable[..., Any]] = {
    "to": PretendedGPU.to,
    "cpu": PretendedGPU.cpu,
    "copy_": PretendedGPU.copy_,
    "numpy": PretendedGPU.numpy,
    "__array__": PretendedGPU.numpy,
    "pin_memory": PretendedGPU.pin_memory,
    "is_pinned": PretendedGPU.is_pinned,
    "__deepcopy__": PretendedGPU.deepcopy,
    "_has_compatible_shallow_copy_type": PretendedGPU.fits_in_place,
}


def _is_gpu(place: Any) -> bool:
    return torch.device(place).type == "cuda"


def _placed(value: Any) -> Any:
    return value.as_subclass(OnGPU) if isinstance(value, Tensor) and not isinstance(value, OnGPU) else value


def _taken(value: Any) -> Any:
    return value.as_subclass(Tensor) if isinstance(value, OnGPU) else value


class _Generator(torch.Generator):
    """Draws what the CPU's draws; remembers where it was to be."""

    on_gpu: bool

    def __new__(cls, device: Any = "cpu") -> _Generator:
        made = super().__new__(cls)
        made.on_gpu = _is_gpu(device)
        return made


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendedGPU]:
    """One GPU with bf16, until the end of the block."""
    gpu = PretendedGPU()
    with monkeypatch.context() as patch, gpu:
        for name, value in {
            "is_available": True, "device_count": 1, "current_device": 0, "get_device_capability": (9, 0),
            "get_device_name": "a pretended GPU",
            "max_memory_allocated": 1, "set_rng_state": None, "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        }.items():  # fmt: skip
            patch.setattr(torch.cuda, name, lambda *args, value=value: value)
        autocast, empty, sgd = torch.autocast, torch.empty, torch.optim.SGD
        parse_to, group = torch._C._nn._parse_to, torch._C._group_tensors_by_device_and_dtype

        def parse(*args: Any, **kwargs: Any) -> tuple[Any, ...]:  # torch looks at devices in C++, which sees the CPU
            device, *rest = parse_to(*args, **kwargs)
            return (GPU if any(isinstance(one, OnGPU) for one in args) else device, *rest)

        def grouped(lists: Any, *rest: Any) -> dict[tuple[torch.device, Any], Any]:
            place = GPU if isinstance(lists[0][0], OnGPU) else CPU
            return {(place, dtype): found for (_, dtype), found in group(lists, *rest).items()}

        patch.setattr(torch, "autocast", lambda kind, *args, **kwargs: autocast("cpu", *args, **kwargs))
        patch.setattr(torch, "Generator", _Generator)
        # Fused, it would add in another order than the CPU's does.
        patch.setattr(torch.optim, "SGD", lambda *args, fused=False, **kwargs: sgd(*args, **kwargs))
        patch.setattr(torch._C._nn, "_parse_to", parse)
        patch.setattr(torch._C, "_group_tensors_by_device_and_dtype", grouped)
        # Other threads do not know of `gpu`; those that read images ahead ask for pinned memory.
        patch.setattr(torch, "empty", lambda *args, **kwargs: gpu.call(empty, args, kwargs))
        overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a plain parameter cannot become an OnGPU
        try:
            yield gpu
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
