"""A GPU that the CPU emulates: torch believes in the device, and refuses what a real one would refuse.

A tensor on it is a wrapper around one of the CPU's, which computes. Everything that needs both of its
operands in one place raises as on a real GPU when they are not, so whatever was made on the wrong device is
found. Not emulated are kernels, memory, and types that a kernel for GPUs does not know.

Of streams a second one is emulated, as late as a real one may be: what it is given (copies) is done when
the first one waits for it. Until then what it writes is NaN; what it reads or writes has to be there still;
and it must have waited for the first one since that was written.

Needs g++. Torch looks for devices once, so a process imports this before it has used torch.
"""

# ruff: noqa: E402
# (What torch is to believe in has to be there before it is imported.)

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import subprocess
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock


def _load() -> None:
    """What torch needs to believe in a GPU."""
    spec = importlib.util.find_spec("torch")
    assert spec is not None and spec.origin is not None
    torch_home = Path(spec.origin).parent
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "gpu.so")
        subprocess.run(
            ["g++", "-std=c++20", "-O0", "-w", "-shared", "-fPIC", f"-I{torch_home / 'include'}",
             "-o", library, Path(__file__).with_suffix(".cpp"), f"-L{torch_home / 'lib'}",
             "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch_home / 'lib'}"],
            check=True,
        )  # fmt: skip
        ctypes.CDLL(str(library))


_load()

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
# What takes tensors of both devices: copies, and what is on the GPU by indices in the host's memory.
COPIES = {aten.copy_.default, aten._to_copy.default}
BY_INDEX = {
    aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default,
}  # fmt: skip


class OnGpu(Tensor):
    """`host` has the values, as of the first stream's operation number `written`."""

    host: Tensor
    written: int

    @staticmethod
    def __new__(cls, host: Tensor) -> OnGpu:
        made: OnGpu = Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            device=GPU,
        )  # fmt: skip
        made.host = host
        made.written = Stream.done
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnGpu({self.host!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """In a file, as it is when that is read without a GPU."""
        return self.host.__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.data.__set__:  # type: ignore[attr-defined]
            args[0].host = args[1].host
        if func == Tensor.tolist:
            return args[0].cpu().tolist()
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return compute(func, args, kwargs or {})


class Generator:
    """As torch.Generator; that of a GPU is the CPU's own, for torch makes none without a GPU."""

    def __new__(cls, device: Any = "cpu") -> Any:
        return super().__new__(cls) if torch.device(device).type == "cuda" else torch._C.Generator(device)

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)


class Gpu(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Where tensors may be made on the GPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Event:
    """Where a stream was."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.place = stream, stream.begun + len(stream.given)


class Stream:
    """The first one is always done with what it was given; a second one begins when it is waited for."""

    done = 0  # operations of the first one
    current: Stream

    def __init__(self, device: Any = None) -> None:
        self.given: list[Callable[[], object]] = []
        self.begun = 0
        self.seen = 0  # of the first one's operations

    def record_event(self) -> Event:
        return Event(self)

    def wait_event(self, event: Event) -> None:
        there = event.stream
        while there.begun < event.place:
            there.begun += 1
            there.given.pop(0)()

    def wait_stream(self, other: Stream) -> None:
        self.seen = Stream.done
        self.wait_event(other.record_event())

    def copy(self, to: Tensor, of: Tensor) -> None:
        """Raises RuntimeError for a copy that may meet what is not there yet."""
        if any(x.written > self.seen for x in (to, of) if isinstance(x, OnGpu)):
            raise RuntimeError("a copy of what may not have been computed yet")
        there, source = _lent(to), _lent(of)
        (to.host if isinstance(to, OnGpu) else to).fill_(torch.nan)
        self.given.append(lambda: there().copy_(source()))


def _lent(x: Tensor) -> Callable[[], Tensor]:
    """Gives x later: memory of the GPU only while somebody else holds it, too."""
    if not isinstance(x, OnGpu):
        return lambda: x
    host = x.host.detach()
    storage, kind = weakref.ref(host.untyped_storage()), (host.storage_offset(), host.shape, host.stride())
    made = torch.empty(0, dtype=host.dtype)

    def given() -> Tensor:
        there = storage()
        if there is None:
            raise RuntimeError("a copy of memory that was given back meanwhile")
        return made.set_(there, *kind)

    return given


@contextlib.contextmanager
def stream(chosen: Stream) -> Iterator[None]:
    """As torch.cuda.stream."""
    with mock.patch.object(Stream, "current", chosen):
        yield


FIRST = Stream.current = Stream()


def compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation. Raises RuntimeError for one that a real GPU would refuse."""
    if Stream.current is not FIRST and func is aten.copy_.default:
        Stream.current.copy(*args[:2])
        return args[0]
    Stream.done += 1
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in given if isinstance(x, OnGpu)]
    here = [x for x in given if not isinstance(x, OnGpu)]
    device = kwargs.get("device")
    on_gpu = bool(there) if device is None else torch.device(device).type == "cuda"
    if func is aten.copy_.default:
        on_gpu = isinstance(args[0], OnGpu)
    elif there and here:
        _refuse(func, args, here)
    if on_gpu and kwargs.get("generator") is not None:
        raise RuntimeError(f"{func} on the GPU with a generator of the CPU")
    if device is not None and on_gpu:
        kwargs = {**kwargs, "device": CPU}
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    args, kwargs = tree_map_only(OnGpu, lambda x: x.host, (args, kwargs))
    made = func(*args, **kwargs)
    if not on_gpu:
        return made
    known = {id(x.host): x for x in there}  # what was changed in place stays what it is
    for x in tree_leaves(made):
        if id(x) in known:
            known[id(x)].written = Stream.done
    return tree_map_only(Tensor, lambda x: known[id(x)] if id(x) in known else OnGpu(x), made)


def _refuse(func: Any, args: Any, here: list[Tensor]) -> None:
    """Raises for operands of both devices where they may not be; single numbers of the host may."""
    if func in COPIES or (func in BY_INDEX and isinstance(args[0], OnGpu)):
        return
    changed = func._schema.is_mutable and any(args[0] is x for x in here)
    if changed or any(x.ndim for x in here):
        shapes = [tuple(x.shape) for x in here]
        raise RuntimeError(f"{func} of tensors on the GPU and of {shapes} on the CPU")


@contextlib.contextmanager
def gpu() -> Iterator[None]:
    """There is a GPU."""
    import bitsandbytes  # which would look for its kernels

    del bitsandbytes
    properties = mock.Mock(major=9, minor=0, total_memory=80 << 30)
    properties.name = "emulated GPU"
    there = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "emulated GPU",
        "get_device_properties": lambda device=None: properties,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "max_memory_allocated": lambda: 0,
        "max_memory_reserved": lambda: 0,
        "reset_peak_memory_stats": lambda: None,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: torch.set_rng_state(state),
        "manual_seed_all": lambda seed: None,
        "Stream": Stream,
        "stream": stream,
        "current_stream": lambda device=None: Stream.current,
    }
    with contextlib.ExitStack() as stack:
        for name, value in there.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "Generator", Generator))
        stack.enter_context(Gpu())  # type: ignore[no-untyped-call]
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes them here and moves them then
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a wrapper cannot change its device
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, False)
        yield
