"""Checkpoints of the three kinds, their pickles instruction by instruction."""

import io
import json
import pickle
import pickletools
import re
import struct
import zipfile
from collections import OrderedDict
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn

from tests.fuzz.mutation import Form, Parts

_NAME = "data.pkl"


def _states() -> list[dict[str, object]]:
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    state = network.state_dict()
    shared = torch.arange(12.0)
    return [
        state,  # an OrderedDict with metadata
        {"w": shared, "view": shared.view(3, 4).t()[1:], "i": torch.ones(2, dtype=torch.int64)},
        {
            "state_dict": {f"network.{key}": value for key, value in state.items()},
            "epoch": 3,
            "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "betas": (0.9, 0.99)}],
            "vgglab": {"classes": ["a", "b"], "none": None, "flag": True, "set": {1, 2}},
            "parameter": nn.Parameter(torch.zeros(2)),
            "big": 2**70,
        },
    ]


def _new_state() -> dict[str, object]:
    """What torch cannot read in the old form."""
    tensors = {name: torch.ones(4).to(getattr(torch, name)) for name in ("uint16", "float8_e5m2")}
    return {"state_dict": tensors, "plain": [torch.int8, torch.device("cpu"), 1j]}


def _instructions(data: bytes) -> Parts:
    """All pickles that stand at the beginning, and what is left."""
    stream, places = io.BytesIO(data), [0]
    try:
        while True:
            start = stream.tell()
            places += [at for _, _, at in pickletools.genops(stream) if at is not None]
            places.append(stream.tell())
    except (ValueError, IndexError):  # the end of the pickles
        stream.seek(start)
    at = sorted({*(place for place in places if place <= start), start, len(data)})
    return [data[a:b] for a, b in pairwise(at)]


def _zip_parts(state: object) -> Parts:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with zipfile.ZipFile(buffer) as archive:
        contents = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    pickled = next(data for name, data in contents.items() if name.endswith(_NAME))
    others = [f"{name}\n".encode() + data for name, data in contents.items() if data != pickled]
    return [*(b"\n" + part for part in _instructions(pickled)), *others]


def _zip_join(parts: Parts, compression: int = zipfile.ZIP_STORED) -> bytes:
    """Parts that begin with an empty line are instructions, others are files."""
    buffer = io.BytesIO()
    instructions = b"".join(part[1:] for part in parts if part.startswith(b"\n"))
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr(_entry(f"archive/{_NAME}"), instructions, compression)
        for part in parts:
            if not part.startswith(b"\n"):
                name, _, data = part.partition(b"\n")
                archive.writestr(_entry(name.decode("latin1")), data, compression)
    return buffer.getvalue()


def _entry(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))


def _legacy(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def reference(name: str) -> bytes:
    """A global, such as `os.system`, on the stack."""
    module, _, attribute = name.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    """A string on the stack."""
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    """A number on the stack."""
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def storage(numel: int, key: str = "0", kind: str = "torch.FloatStorage") -> bytes:
    """A storage of so many numbers on the stack."""
    return (
        b"(" + text("storage") + reference(kind) + text(key) + text("cpu") + number(numel) + b"tQ"
    )


def tensor(numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A tensor of storage 0 on the stack."""
    sizes = (b"(" + b"".join(map(number, numbers)) + b"t" for numbers in (size, stride))
    hooks = reference("collections.OrderedDict") + b")R"
    arguments = storage(numel) + number(offset) + b"".join(sizes) + b"\x89" + hooks
    return reference("torch._utils._rebuild_tensor_v2") + b"(" + arguments + b"tR"


def nest(levels: int, twice: bool) -> bytes:
    """A tuple of a tuple of a tuple ..., or of two of each: 2 ** levels in all."""
    step = b"h%c\x86q%c" if twice else b"h%c\x85q%c"
    return b")q\x01" + b"".join(step % (i % 200 + 1, (i + 1) % 200 + 1) for i in range(levels))


class _Code:
    def __init__(self, *call: object) -> None:
        self.call = call

    def __reduce__(self) -> tuple[object, ...]:
        return self.call[0], self.call[1:]


def code(function: object, *arguments: object) -> bytes:
    """A call of a function."""
    return pickle.dumps(_Code(function, *arguments), 2)[2:-1]


_GLOBALS = """
    os.system posix.system builtins.eval __builtin__.set builtins.bytearray torch.load
    collections.OrderedDict collections.Counter _codecs.encode torch.Size torch.device torch.Tensor
    torch.FloatStorage torch.storage.UntypedStorage torch.nn.parameter.Parameter torch.float32
    torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 torch._utils._rebuild_tensor_v3
    torch._utils._rebuild_parameter torch._utils._rebuild_qtensor torch.serialization._get_layout
    torch._utils._rebuild_sparse_tensor torch._utils._rebuild_meta_tensor_no_storage
    torch._tensor._rebuild_from_type_v2 torch._utils._rebuild_wrapper_subclass builtins.complex
""".split()  # noqa: SIM905 - a list of words is longer
_HOSTILE_PICKLES = [
    *map(reference, _GLOBALS),
    *(reference(name) + b")R" for name in _GLOBALS),
    *(reference(name) + b"(" + number(10**9) + b"tR" for name in _GLOBALS),
    *(bytes([code]) for code in b")](}NtRb0aseu\x85\x86\x87\x88\x89\x81Q."),
    code(exec, "import os; os.mkdir('/tmp/escaped')"),
    code(open, "/tmp/escaped", "w"),
    nest(40, twice=True),
    nest(40, twice=True) + b"Ns",
    nest(40, twice=True) + b")R",
    nest(150, twice=False) + b"Ns",
    b")" + b"\x85" * 300_000 + b"Ns",
    b"]" * 3000 + b"a" * 2999,
    b"]q\x02h\x02a",
    b"X\xff\xff\xff\xffshort",
    b"\x8a\xff",
    storage(10**12),
    storage(-1),
    storage(5, "0/../1"),
    storage(5, "no such"),
    storage(5, "0", "torch.storage.UntypedStorage"),
    *(tensor(*arguments) for arguments in (
        (100, 0, (1000,), (1,)), (100, 10**6, (4,), (1,)), (100, -9, (4,), (1,)),
        (100, 50, (4,), (-1,)), (100, 0, (-4,), (1,)), (4, 0, (10**12,), (0,)),
        (10**9, 0, (10**9,), (1,)), (4, 0, (2**40, 2**40), (0, 0)), (4, 2**62, (2,), (2**62,)),
        (2**40, 0, (2,), (1,)), (4, 0, (0, 2**62), (1, 1)), (4, 0, (2,) * 70, (0,) * 70),
    )),
]  # fmt: skip
_HOSTILE_FILES = [
    b"archive/data/0\n" + bytes(16),
    b"archive/data.pkl\n\x80\x02N.",
    b"archive/DATA.PKL\n\x80\x02N.",
    b"other/data.pkl\n\x80\x02N.",
    b"archive/byteorder\nbig",
    b"archive/byteorder\nmiddle",
    b"archive/.storage_alignment\n0",
    b"archive/.storage_alignment\n" + b"9" * 5000,
    b"archive/version\n" + b"9" * 100,
    b"archive/constants.pkl\n\x80\x02N.",
    b"archive/code/x.py\nimport os",
    b"../escaped\nx",
    b"archive/zeros\n" + bytes(1 << 20),
]
_ZIP = Form(
    "w.pth",
    [_zip_parts(state) for state in [*_states(), _new_state()]],
    _zip_join,
    [*(b"\n" + part for part in _HOSTILE_PICKLES), *_HOSTILE_FILES],
)
_TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.int64)}
_TOKEN = re.compile(rb'"[^"]*"|[\[\]{}:,]|[^"\[\]{}:,]+')


def zipped(path: Path, pickled: bytes, data: bytes = bytes(16)) -> Path:
    """A checkpoint of a pickle and its storage 0."""
    parts = [b"\n" + pickled, b"archive/data/0\n" + data, b"archive/version\n3\n"]
    path.write_bytes(_zip_join(parts))
    return path


def _safetensors_parts(data: bytes) -> Parts:
    length = struct.unpack_from("<Q", data)[0]
    return [*_TOKEN.findall(data[8 : 8 + length]), b"\0" + data[8 + length :]]


def _safetensors_join(parts: Parts) -> bytes:
    """Parts that begin with a zero are data, others the header."""
    header = b"".join(part for part in parts if not part.startswith(b"\0"))
    data = b"".join(part[1:] for part in parts if part.startswith(b"\0"))
    return struct.pack("<Q", len(header)) + header + data


CHECKPOINTS = {
    "zip": _ZIP,
    "deflated zip": Form(
        "w.ckpt",
        _ZIP.seeds,
        lambda parts: _zip_join(parts, zipfile.ZIP_DEFLATED),
        _ZIP.hostile,
    ),
    "legacy": Form(
        "w.pt",
        [_instructions(_legacy(OrderedDict(state))) for state in _states()],
        b"".join,
        _HOSTILE_PICKLES,
    ),
    "safetensors": Form(
        "w.safetensors",
        [_safetensors_parts(save(_TENSORS, {"format": "pt"})), _safetensors_parts(save({}))],
        _safetensors_join,
        [
            *(json.dumps(value).encode() for value in (
                "F32", "F64", "I64", "BOOL", "F8_E4M3", "F4", "BF16", "C64", "a", "__metadata__",
                [0, 24], [24, 0], [0, 2**63], [2**62, 2**62], [-1], [], {}, None, 1e400, "\u1234",
            )),
            *(str(value).encode() for value in (0, 1, -1, 24, 2**31, 2**63, 2**64, 10**30)),
            b"[" * 5000,
            b'{"a":' * 500,
            b'"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},',
            b" " * 100_000,
        ],
    ),
}  # fmt: skip
