import os
import pickle
import tarfile
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from tests.fuzz.checkpoints import code, nest, number, reference, storage, tensor, text, zipped
from torch import nn

from vgglab.networks.pickles import LEGACY, MAX_BYTES, RefusedError, load_plain
from vgglab.networks.weights import WeightsError, read_checkpoint

EMPTY = pickle.dumps([], 2)


def mapping(value):
    """A pickle of {"w": value}."""
    return b"\x80\x02}" + text("w") + value + b"s."


@pytest.mark.parametrize("legacy", [False, True])
def test_plain_content_comes_back_as_it_was(tmp_path, legacy):
    state = nn.BatchNorm2d(3).state_dict()
    base = torch.arange(12.0)
    content = {
        "state": state,
        "views": [base, base[4:], base.view(3, 4).t()],
        "parameter": nn.Parameter(torch.ones(2)),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "none": torch.zeros(0),
        "plain": [None, True, 1, -(2**70), 0.5, "words \u00fc", (1, (2, ())), {3, 4}],
        "counter": Counter([3, 3, 5]),
        "size": torch.Size([2, 3]),
        "names": [torch.float32, torch.device("cuda:1"), 1 + 2j],
    }
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not legacy)
    read = load_plain(tmp_path / "w.pt")
    for key in ("plain", "counter", "size", "names"):
        assert read[key] == content[key]
    assert type(read["state"]) is OrderedDict
    assert read["state"]._metadata == state._metadata
    assert all(torch.equal(read["state"][key], value) for key, value in state.items())
    assert all(map(torch.equal, read["views"], content["views"]))
    assert torch.equal(read["parameter"], content["parameter"])
    assert torch.equal(read["half"], content["half"])
    assert read["none"].shape == (0,)


@pytest.mark.parametrize("dtype", ["uint16", "uint64", "float8_e4m3fn", "float8_e8m0fnu"])
def test_new_kinds_of_numbers_come_back(tmp_path, dtype):
    tensor = torch.arange(1, 9, dtype=torch.float32).to(getattr(torch, dtype))[2:]
    torch.save({"w": tensor}, tmp_path / "w.pt")
    read = load_plain(tmp_path / "w.pt")["w"]
    assert read.dtype == tensor.dtype
    assert torch.equal(read.view(torch.uint8), tensor.view(torch.uint8))
    assert read.double().sum() == tensor.double().sum()


@pytest.mark.parametrize("value", [np.float64(0.5), b"bytes", nn.Linear(1, 1), bytearray(b"x")])
def test_what_is_not_plain_but_no_strangers_code_is_named_as_such(tmp_path, value):
    torch.save({"w": value}, tmp_path / "w.pt")
    with pytest.raises(RefusedError, match=r"it holds [\w.]+, which is not plain data; refused"):
        load_plain(tmp_path / "w.pt")


def test_functions_of_python_itself_are_strangers_code(tmp_path):
    path = zipped(tmp_path / "w.pth", mapping(code(eval, "1")))
    with pytest.raises(RefusedError, match=r"builtins\.eval, .*stranger's code"):
        load_plain(path)


def test_a_network_of_10_000_tensors_is_read(tmp_path):
    one = torch.zeros(1)
    state = {f"network.features.block{i}.convolution.weight": one[:] for i in range(10_000)}
    torch.save(state, tmp_path / "w.pt")
    assert len(load_plain(tmp_path / "w.pt")) == 10_000


def test_forms_of_earlier_versions(tmp_path):
    """OrderedDict from a list of pairs (Python 2), Parameter by NEWOBJ (torch 0.1)."""
    data = torch.arange(4.0)
    pairs = b"]](" + text("w") + tensor(4, 0, (2, 2), (2, 1)) + b"ea"
    old = b"\x80\x02" + reference("collections.OrderedDict") + pairs + b"\x85R."
    path = zipped(tmp_path / "old.pth", old, data.numpy().tobytes())
    assert torch.equal(load_plain(path)["w"], data.view(2, 2))
    parts = tensor(4, 0, (4,), (1,)) + b"NN\x88N"
    older = mapping(reference("torch.nn.parameter.Parameter") + b")\x81(" + parts + b"tb")
    path = zipped(tmp_path / "older.pth", older, data.numpy().tobytes())
    assert torch.equal(load_plain(path)["w"], data)


HOSTILE = {
    # These three kill torch 2.15, or keep it busy for ages.
    "deep key": (b"})" + b"\x85" * 300_000 + b"Ns", "levels of them"),
    "shared key": (b"}" + nest(60, twice=True) + b"Ns", "more than 10,000,000 values"),
    "shared function": (nest(60, twice=True) + b")R", "more than 10,000,000 values"),
    "deep list": (b"]" * 1000 + b"a" * 999, "levels of them"),
    "itself": (b"]q\x01h\x01a", "already part of one"),
    "grows behind": (b"]q\x01\x85h\x01Na", "already part of one"),
    "copies": (
        b"]("
        + b"N" * 20_000
        + b"e\x85q\x01]("
        + (reference("builtins.set") + b"h\x01R") * 600
        + b"e",
        "more than 10,000,000 values",
    ),
    "no function": (b"NNR", "calls what is no function"),
    "storage as function": (
        reference("torch.storage.UntypedStorage") + b"J\xff\xff\xff\x7f\x85R",
        "no function",
    ),
    "memory": (reference("torch.Tensor") + number(10**12) + b"\x85R", "it holds torch.Tensor"),
    "codec": (reference("_codecs.encode") + b"R", "it holds _codecs.encode"),
    "class": (reference("torch.FloatStorage"), "it holds a StorageType"),
    "storage": (storage(4), "it holds a TypedStorage"),
    "expanded": (tensor(4, 0, (2**40,), (0,)), "more elements than are stored"),
    "attribute": (
        reference("collections.OrderedDict") + b")R}" + text("items") + text("evil") + b"sb",
        "it holds a OrderedDict",
    ),
    "metadata": (
        reference("collections.OrderedDict") + b")R}" + text("_metadata") + number(1) + b"sb",
        "it holds a OrderedDict",
    ),
    "protocol 4": (b"\x8c\x01a", "instruction SHORT_BINUNICODE"),
    "long": (b"](" + text("x" * MAX_BYTES) + b"Ne", f"more than {MAX_BYTES:,} bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_refused_with_its_reason(tmp_path, name):
    value, reason = HOSTILE[name]
    path = zipped(tmp_path / "w.pth", b"\x80\x02" + value + b".")
    with pytest.raises(RefusedError, match=reason):
        load_plain(path)
    with pytest.raises(WeightsError, match=rf"w\.pth: .*{reason}") as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        (100, 0, (1000,), (1,)),
        (100, 1000, (4,), (1,)),
        (100, -9, (4,), (1,)),
        (100, 50, (4,), (-1,)),
        (100, 0, (-4,), (1,)),
        (10**9, 0, (10**9,), (1,)),
        (4, 2**62, (2,), (2**62,)),
        (4, 0, (2**40, 2**40), (0, 0)),
        (10**7, 0, (10**7,), (1,)),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_outside_of_its_storage_is_refused(tmp_path, arguments, legacy):
    path, pickled = tmp_path / "w.pth", mapping(tensor(*arguments))
    if legacy:
        # No storage is said to follow, so that nothing compares it with what follows.
        path.write_bytes(LEGACY + EMPTY + pickled.replace(b"tQ", b"NtQ") + EMPTY)
    else:
        zipped(path, pickled)
    with pytest.raises(WeightsError):
        read_checkpoint(path)


def test_a_zip_bomb_is_refused(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "w.pt")
    with (
        zipfile.ZipFile(tmp_path / "w.pt") as whole,
        zipfile.ZipFile(tmp_path / "z.pt", "w") as out,
    ):
        for entry in whole.infolist():
            out.writestr(entry.filename, whole.read(entry), zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsError, match="compressed or overlap"):
        read_checkpoint(tmp_path / "z.pt")
    overlapping = zipfile.ZipFile(tmp_path / "o.pt", "w")
    overlapping.writestr("archive/data/0", bytes(5000))
    first = overlapping.infolist()[0]
    overlapping.filelist += [first] * 20
    overlapping.close()
    with pytest.raises(WeightsError, match="compressed or overlap"):
        read_checkpoint(tmp_path / "o.pt")


def test_a_tar_archive_behind_the_magic_number_is_refused(tmp_path):
    """Of digits that a regular expression of Python before 3.11.10 takes quadratic time for."""
    member = tarfile.TarInfo(LEGACY.decode("latin1"))
    member.type, member.size = tarfile.XHDTYPE, 1 << 20
    start = member.tobuf(tarfile.GNU_FORMAT, "latin1")[:512]
    (tmp_path / "w.pt").write_bytes(start + b"1" * (1 << 20))
    with pytest.raises(RefusedError, match="tar archive"):
        load_plain(tmp_path / "w.pt")


def test_code_is_named_and_not_run(tmp_path):
    proof = tmp_path / "proof"
    path = zipped(tmp_path / "w.pth", mapping(code(os.mkdir, str(proof))))
    with pytest.raises(RefusedError, match=r"it holds posix\.mkdir, not only tensors"):
        load_plain(path)
    assert not proof.exists()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="no weights at"):
        read_checkpoint(tmp_path / "w.pth")
