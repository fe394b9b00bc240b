"""`torch.load` for files of strangers: tensors and plain containers of bounded size, or an error.

`weights_only=True` runs no stranger's code, but torch 2.15 dies of, or hangs on, a small pickle of
nested or shared tuples, and calls some functions that allocate what they are told to. So the
pickle's instructions are followed first with nothing but sizes in place of the values.
"""

import builtins
import io
import pickle
import pickletools
import re
import tarfile
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor, nn

MAX_VALUES = 10_000_000  # each counted as often as it is used; a checkpoint has thousands
MAX_DEPTH = 100
MAX_BYTES = 1 << 21  # of a pickle; those of this project have some 10 KB, of 10,000 tensors 1.2 MB

# How a file of before torch 1.6 begins: a magic number and a version.
LEGACY = b"".join(pickle.dumps(number, 2) for number in (0x1950A86A20F9469CFC6C, 1001))

_CONTAINERS = {"collections.OrderedDict", "collections.Counter", "builtins.set", "torch.Size"}
_TENSORS = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3", "_rebuild_parameter"}
_CALLED = _CONTAINERS | {f"torch._utils.{name}" for name in _TENSORS}
_CALLED |= {"torch.device", "builtins.complex"}
_PARAMETER = "torch.nn.parameter.Parameter"  # made by NEWOBJ in torchvision's oldest files
_STORAGE = re.compile(r"torch\.([A-Z]\w*Storage|storage\.UntypedStorage)")
# Not the quantised ones and those of less than a byte.
_DTYPE = re.compile(
    r"torch\.(bool|u?int(8|16|32|64)|bfloat16|float(16|32|64|8_\w+)|complex(32|64|128))"
)
_PLAIN = {dict, OrderedDict, Counter, list, tuple, set, torch.Size, str, bool, int, float, complex}
_PLAIN |= {torch.dtype, torch.device, type(None)}

_ATOMS = {"NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
_ATOMS |= {"BINUNICODE", "SHORT_BINSTRING", "EMPTY_TUPLE"}
_EMPTY = {"EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ADDED = {"APPEND": 1, "SETITEM": 2, "BUILD": 1}


class RefusedError(Exception):
    """What is wrong with a file, as the end of a sentence."""


def load_plain(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU. Large files are mapped, not read whole.

    Returns:
        dict, OrderedDict, Counter, list, tuple, set, torch.Size, torch.dtype, torch.device, str,
        numbers and None, and dense tensors that lie wholly in the file.

    Raises:
        RefusedError: the file holds something else, or it could exhaust the memory.
        Exception: others where the file is torn or of another kind.
    """
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"  # as torch tells the two forms apart
    if zipped:
        check_zip(path)
        check_pickle(io.BytesIO(torch._C.PyTorchFileReader(str(path)).get_record("data.pkl")))
    else:
        _check_legacy(path)
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    _check_content(content, path.stat().st_size)
    return content


def check_zip(path: Path) -> None:
    """Refuse an archive that unpacks to more than itself, as `torch.save` never writes one.

    Raises:
        RefusedError: entries are compressed or overlap.
        Exception: others where it is no zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if compressed or sum(entry.file_size for entry in entries) > path.stat().st_size:
        raise RefusedError("its parts are compressed or overlap, as torch.save never writes them")


def _check_legacy(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(MAX_BYTES)
    if not start.startswith(LEGACY):
        raise pickle.UnpicklingError("no magic number")
    with suppress(tarfile.HeaderError):
        # torch would read it with tarfile, which a header can keep busy for ages (CVE-2024-6232).
        tarfile.TarInfo.frombuf(start[:512], "utf-8", "surrogateescape")
        raise RefusedError("it is a tar archive, too")
    stream = io.BytesIO(start[len(LEGACY) :])
    for _ in ("system", "content", "keys of the storages"):
        check_pickle(stream)


def _check_content(content: object, most_bytes: int) -> None:
    storages: dict[int, int] = {}
    waiting = [content]
    while waiting:  # ends, because `check_pickle` has seen that no value holds itself
        value = waiting.pop()
        if isinstance(value, Tensor):
            _check_tensor(value)
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        elif type(value) not in _PLAIN or not _only_items(value):
            raise RefusedError(
                f"it holds a {type(value).__name__}, not only tensors and plain data"
            )
        elif isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, (list, tuple, set)):
            waiting += value
    if sum(storages.values()) > most_bytes:
        raise RefusedError("its tensors are larger than the file")


def _check_tensor(tensor: Tensor) -> None:
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    if type(tensor) not in (Tensor, nn.Parameter) or not dense or tensor._backward_hooks:
        raise RefusedError("it holds a tensor that is not a plain one")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise RefusedError("it holds a tensor of more elements than are stored")


def _only_items(value: object) -> bool:
    """Whether no attribute stands beside a container's items but the one that torch keeps there."""
    attributes = dict(getattr(value, "__dict__", ()))
    metadata = attributes.pop("_metadata", {})
    sound = isinstance(metadata, dict) and all(isinstance(v, dict) for v in metadata.values())
    return sound and not attributes


@dataclass(eq=False)
class _Value:
    size: int = 1
    depth: int = 0
    function: str = ""
    """The name of a global; empty for other values."""
    growing: bool = False
    """A list or dict that is not yet part of another value."""

    def add(self, values: Iterable["_Value"]) -> None:
        for value in values:
            self.size += value.size
            self.depth = max(self.depth, value.depth + 1)
        if self.size > MAX_VALUES or self.depth > MAX_DEPTH:
            raise RefusedError(
                f"it holds more than {MAX_VALUES:,} values or {MAX_DEPTH} levels of them; refused"
            )


def check_pickle(stream: IO[bytes]) -> None:
    """Follow one pickle of `stream` to its end.

    Raises:
        RefusedError: it makes more than tensors and plain containers, or too many of these.
        Exception: others where it is no pickle.
    """
    follower = _Follower()
    for opcode, argument, at in pickletools.genops(stream):
        if at is not None and at > MAX_BYTES:
            raise RefusedError(f"its pickle has more than {MAX_BYTES:,} bytes")
        follower.step(opcode.name, argument)


_ATOM = _Value()


class _Follower:
    def __init__(self) -> None:
        self.stack: list[_Value] = []
        self.outer: list[list[_Value]] = []
        self.memo: dict[int, _Value] = {}
        self.called = _Value()
        """All arguments of all calls: one call may copy a large list."""

    def step(self, name: str, argument: object) -> None:
        stack = self.stack
        if name in _ATOMS:
            stack.append(_ATOM)
        elif name in _EMPTY:
            stack.append(_Value(growing=True))
        elif name in ("BINPUT", "LONG_BINPUT"):
            assert isinstance(argument, int)
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            assert isinstance(argument, int)
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.outer.append(stack)
            self.stack = []
        elif name == "TUPLE":
            self.push_tuple(self.since_mark())
        elif name in _TUPLES:
            self.push_tuple(self.pop(_TUPLES[name]))
        elif name in _ADDED:
            self.add(self.pop(_ADDED[name]))
        elif name in ("APPENDS", "SETITEMS"):
            self.add(self.since_mark())
        elif name == "GLOBAL":
            stack.append(_Value(function=_allowed(str(argument))))
        elif name == "REDUCE":
            self.call(_CALLED)
        elif name == "NEWOBJ":
            self.call({_PARAMETER})
        elif name == "BINPERSID":
            stack[-1] = _Value()  # a storage
        elif name not in ("PROTO", "STOP"):
            raise RefusedError(f"it uses the pickle instruction {name}, which torch.save does not")

    def pop(self, count: int) -> list[_Value]:
        values = self.stack[-count:]
        del self.stack[-count:]
        return self.finished(values)

    def since_mark(self) -> list[_Value]:
        values, self.stack = self.stack, self.outer.pop()
        return self.finished(values)

    @staticmethod
    def finished(values: list[_Value]) -> list[_Value]:
        for value in values:
            value.growing = False  # so that no value holds itself, and sizes stay true
        return values

    def push_tuple(self, values: list[_Value]) -> None:
        made = _Value()
        made.add(values)
        self.stack.append(made)

    def add(self, values: list[_Value]) -> None:
        container = self.stack[-1]
        if not container.growing:
            raise RefusedError("it adds to a value that is no container, or already part of one")
        container.add(values)

    def call(self, allowed: set[str]) -> None:
        function, arguments = self.pop(2)
        if function.function not in allowed:
            raise RefusedError("it calls what is no function")
        self.called.add([arguments])
        growing = function.function in _CONTAINERS | {_PARAMETER}
        self.stack.append(_Value(arguments.size, arguments.depth, growing=growing))


def _allowed(argument: str) -> str:
    module, _, name = argument.partition(" ")
    module = "builtins" if module == "__builtin__" else module  # as Python 2 called it
    path = f"{module}.{name}"
    if path in _CALLED | {_PARAMETER} or _STORAGE.fullmatch(path) or _DTYPE.fullmatch(path):
        return path
    known = module.partition(".")[0] in ("torch", "numpy", "collections", "_codecs")
    if known or (module == "builtins" and isinstance(getattr(builtins, name, None), type)):
        why = "which is not plain data"
    else:
        why = "not only tensors, and to load that could run a stranger's code"
    raise RefusedError(f"it holds {path}, {why}; refused")
