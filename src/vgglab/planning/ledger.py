"""A book of what operations allocate, compute and move, kept while they run."""

import weakref
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.module_tracker import ModuleTracker

Phase = Literal["forward", "backward", "update"]


@dataclass
class Work:
    """What the operations of one module in one phase did."""

    flops: int = 0
    """By torch's own formulas: two for a multiply and an add, and none for anything but
    convolutions and matrix products."""
    bytes: int = 0
    """Read and written: each operand of each operation once, twice if it is changed in place."""


class Ledger(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages alive at a time, and the work by module, of what runs inside.

    Works on fake tensors as on real ones. What an operation allocates and frees within itself,
    such as cuDNN's workspace, stays unseen, and so do storages that were made outside.
    (torch.distributed._tools.mem_tracker.MemTracker sees the same peak, but is private, takes no
    second micro-batch and does not count what is moved.)

    Args:
        modules: knows which module is running; it must be entered.
        names: of modules, by their names in `modules`.
    """

    def __init__(self, modules: ModuleTracker, names: Mapping[str, str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._changes: list[tuple[int, int]] = []
        """Each storage by number, with the bytes that came or, negative, went; those that there
        were at the beginning come first."""
        self.work: dict[tuple[str, Phase], Work] = {}
        """By the module's name and the phase, in order of first use."""
        self._storages: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self._numbers = count()
        self._modules = modules
        self._names = names
        self._phase: Phase | None = None
        self._elsewhere = ""

    @property
    def live(self) -> int:
        """Bytes of all storages that are alive."""
        return sum(size for _, size in self._changes)

    def peak(self, without: Collection[int] = ()) -> int:
        """The most that was alive at a time since `restart_peak` (or the beginning).

        Args:
            without: numbers of storages that are not to count, see `numbers`.
        """
        return max(accumulate(size for number, size in self._changes if number not in without))

    def restart_peak(self) -> None:
        alive = Counter[int]()
        for number, size in self._changes:
            alive[number] += size
        self._changes = [(number, size) for number, size in alive.items() if size]

    def numbers(self, tensors: Iterable[Tensor | None]) -> set[int]:
        """Of the tensors' storages."""
        return {self._storages[id(t.untyped_storage())][0] for t in tensors if t is not None}

    @contextmanager
    def recording(self, phase: Phase, elsewhere: str) -> Iterator[None]:
        """Enter the work of the operations inside; `elsewhere` names what runs in no module."""
        self._phase, self._elsewhere = phase, elsewhere
        try:
            yield
        finally:
            self._phase = None

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            self._follow(tensor)
        if self._phase is not None:
            innermost = max(self._modules.parents - {"Global"}, key=len, default=self._elsewhere)
            name = self._names.get(innermost, innermost)
            work = self.work.setdefault((name, self._phase), Work())
            formula = flop_registry.get(func.overloadpacket)
            if formula is not None:
                work.flops += formula(*args, **kwargs, out_val=result)
            work.bytes += _moved(func, args, kwargs, result)
        return result

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._storages:
            return
        number = next(self._numbers)

        def free(_: Any) -> None:
            del self._storages[key]
            self._changes.append((number, -size))

        self._storages[key] = number, weakref.ref(storage, free)
        self._changes.append((number, size))


def _moved(func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> int:
    given = _tensors((args, kwargs))
    known = {id(tensor) for tensor in given}
    made = [tensor for tensor in _tensors(result) if id(tensor) not in known]
    changed = [
        tensor
        for argument, value in zip(func._schema.arguments, args, strict=False)
        if argument.is_write
        for tensor in _tensors(value)
    ]
    asks = not made and not changed  # for a property, such as the device
    if asks or func.is_view or func.overloadpacket in _MOVE_NOTHING:
        return 0
    # An expanded tensor has more elements than there are bytes to read.
    return sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in (*given, *made, *changed))


_MOVE_NOTHING = (torch.ops.aten.empty_like, torch.ops.aten._unsafe_view)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
