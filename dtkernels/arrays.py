"""Arrays of any library as tensors, and tensors as arrays of that library: memory is shared and never moves."""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.utils.dlpack


class Array(NamedTuple):
    """What a user passed, as a tensor over the same memory, and how its library takes a tensor back."""

    tensor: torch.Tensor
    wrap: Callable[[torch.Tensor], Any]
    library: str  # "numpy", "torch", or the name of another library


def read(name: str, value: Any, *, floats: bool = False) -> Array:
    """``value`` as a tensor on its device, to be read only; what is no array becomes one of NumPy.

    NumPy's are masks, bool where torch or the kernels have no such integers, unless they are ``floats``.

    Of another library than NumPy and torch an array must export DLPack, and the library import it again.
    """
    if isinstance(value, torch.Tensor):
        return Array(value, lambda tensor: tensor, "torch")
    if isinstance(value, (np.ndarray, np.generic)) or not hasattr(value, "__dlpack__"):
        return Array(
            _of_numpy(np.asarray(value), "f" if floats else "biu"), lambda tensor: tensor.numpy(), "numpy"
        )
    library = type(value).__module__.partition(".")[0]
    if hasattr(value, "__array_namespace__"):
        namespace = value.__array_namespace__()
    else:
        namespace = importlib.import_module(library)
    if not hasattr(namespace, "from_dlpack"):
        raise TypeError(f"{name}: expected an array of a library with from_dlpack, got a {_type_name(value)}")
    return Array(_of_dlpack(name, value), namespace.from_dlpack, library)


def write(name: str, value: Any, source: Array) -> Any:
    """A preallocated result as an array to assign to: see :func:`plain`.

    It must be of ``source``'s library and device, and writable; shape and dtype are the caller's concern.
    """
    if source.library == "numpy":
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{name}: expected a numpy.ndarray like the input, got {_type_name(value)}")
        if not value.flags.writeable:
            raise _read_only(name)
        return _check_elements(name, value)
    if type(value).__module__.partition(".")[0] != source.library or not hasattr(value, "__dlpack__"):
        raise TypeError(f"{name}: expected a {source.library} array like the input, got {_type_name(value)}")
    if not isinstance(value, torch.Tensor) and _is_read_only(value):
        raise _read_only(name)
    tensor = value if isinstance(value, torch.Tensor) else _of_dlpack(name, value)
    if tensor.device != source.tensor.device:
        raise ValueError(
            f"{name}: expected an array on device {source.tensor.device} like the input, got {tensor.device}"
        )
    if tensor.requires_grad:
        raise ValueError(f"{name}: expected an array that needs no gradient, got requires_grad=True")
    return _check_elements(name, plain(tensor))


def plain(tensor: torch.Tensor) -> Any:
    """The tensor as an array to compute with: of NumPy on the CPU, where torch's threads do not survive a fork."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def overlap(a: Any, b: Any) -> bool:
    """Whether two arrays, or two tensors, may share memory: by their first and last bytes. None shares none."""
    if a is None or b is None:
        return False
    if isinstance(a, torch.Tensor):
        low, high = zip(_range(a), _range(b), strict=True)
        return a.device == b.device and a.numel() > 0 and b.numel() > 0 and max(low) < min(high)
    return bool(np.may_share_memory(a, b))


def nonzero(source: Array) -> torch.Tensor:
    """The mask ``value != 0``, in which NaN counts as NumPy counts it: as true. No copy of bools and integers."""
    x = source.tensor.detach()
    return x if x.dtype in _EXACT else x.bool()


def numbers_per_axis(name: str, value: Any, ndim: int, wrong_length: type[Exception]) -> tuple[float, ...]:
    """A spacing as these libraries write it: None, a number, or one per axis, else an error of their type."""
    if value is None:
        return (1.0,) * ndim
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: expected None, a number or {ndim} numbers, got {value!r}") from error
    if numbers.ndim == 0:
        numbers = np.full(ndim, numbers)
    if numbers.shape != (ndim,):
        raise wrong_length(f"{name}: expected {ndim} numbers (one per axis), got shape {numbers.shape}")
    if not ((numbers >= 1e-18) & (numbers <= 1e18)).all():
        raise ValueError(f"{name}: expected positive finite numbers in [1e-18, 1e18], got {numbers.tolist()}")
    return tuple(numbers.tolist())


_EXACT = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def _of_numpy(array: np.ndarray[Any, Any], kinds: str) -> torch.Tensor:
    strides_fit = all(s >= 0 and s % array.itemsize == 0 for s in array.strides)
    known = array.dtype.kind in kinds and array.dtype.isnative and array.dtype.name not in _UNKNOWN
    if not (known and strides_fit):
        array = array.astype(np.bool_)
    # Without the flag that says read-only, about which torch warns: nobody writes.
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Memory(array)))


_UNKNOWN = {"uint16", "uint32", "uint64"}  # to the kernels


class _Memory:
    """Memory that NumPy takes for writable."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
        self.owner = array


def _of_dlpack(name: str, value: Any) -> torch.Tensor:
    try:
        return torch.utils.dlpack.from_dlpack(value)
    except Exception as error:  # whatever the exporting library raises
        raise TypeError(
            f"{name}: expected an array that exports DLPack to torch, got a {_type_name(value)}: {error}"
        ) from error


def _check_elements(name: str, array: Any) -> Any:
    strides = array.stride() if isinstance(array, torch.Tensor) else array.strides
    if any(n > 1 and s == 0 for n, s in zip(array.shape, strides, strict=True)):
        raise ValueError(f"{name}: expected memory for every element, got a broadcast array")
    return array


def _read_only(name: str) -> ValueError:
    return ValueError(f"{name}: expected an array that can be written, got a read-only one")


def _is_read_only(value: Any) -> bool:
    """Whether the exporter says so, which it can since DLPack 1.0; torch does not ask.

    DLManagedTensorVersioned is a version of two 32-bit numbers, two pointers, and the flags, of which read-only is
    the first.
    """
    try:
        capsule = value.__dlpack__(max_version=(1, 0))
    except TypeError:  # of a library that does not know versions
        return False
    name, api = b"dltensor_versioned", ctypes.pythonapi
    if not api.PyCapsule_IsValid(ctypes.py_object(capsule), name):
        return False
    address = ctypes.PYFUNCTYPE(ctypes.c_size_t, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", api))(
        capsule, name
    )
    flags = ctypes.c_uint64.from_address(address + 8 + 2 * ctypes.sizeof(ctypes.c_void_p))
    return bool(flags.value & 1)


def _range(tensor: torch.Tensor) -> tuple[int, int]:
    last = sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (last + 1) * tensor.element_size()


def _type_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"
