"""Weights from torchvision, from files and from this project's checkpoints, never from code."""

import hashlib
import warnings
import zipfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vgglab.errors import InputError
from vgglab.files import is_damaged, replacing
from vgglab.networks.pickles import RefusedError, check_zip, load_plain
from vgglab.progress import progress

PUBLIC = "IMAGENET1K_V1"
PREFIX = "network."  # of the network's keys in this project's checkpoints
_TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 18
WRAPPERS = {"_orig_mod", "module"}  # torch.compile's and DistributedDataParallel's parts of a key


class WeightsError(InputError):
    """Weights that cannot be read or do not fit; one line that names the file and the reason."""


def load_weights(network: nn.Module, source: str | Path) -> list[str]:
    """Load weights into the network, in place: all of them, or with an error none.

    Args:
        network: the network to fill.
        source: `IMAGENET1K_V1`, torchvision's public weights, downloaded into torch's hub folder
            and checked unless they are there; or a file, as `read_state_dict` takes it.

    Returns:
        The keys that were left as they were initialised: none, or the last layer's when the
        weights are for another number of classes, which is also warned of.

    Raises:
        WeightsError: the source cannot be had or read, or does not fit; nothing is loaded.
    """
    path = weights_file(network, source)
    given = read_state_dict(path)
    wanted = network.state_dict()
    dropped = _last_layer_of_other_classes(given, wanted)
    unused = {key: given.pop(key) for key in dropped}
    if problems := misfits(given, {key: v for key, v in wanted.items() if key not in dropped}):
        raise WeightsError(f"{path} does not fit {_described(network)}: {problems}")
    network.load_state_dict(given, strict=False)
    if dropped:
        changes = ", ".join(_change(key, value, wanted) for key, value in unused.items())
        warnings.warn(
            f"{path} is for another number of classes; left as initialised: {changes}",
            stacklevel=2,
        )
    return dropped


def weights_file(network: nn.Module, source: str | Path) -> Path:
    """The file of a source: torchvision's for this network, downloaded if need be, or a path.

    Raises:
        WeightsError: there are no public weights for the network, or they cannot be had.
    """
    return _public_file(network) if source == PUBLIC else Path(source).expanduser()


def misfits(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What keeps one state dict from standing in for another; empty if nothing does."""
    missing = [
        key
        for key in wanted
        # Files from before torch 0.4.1 lack these counters; with a fixed momentum nothing reads
        # them.
        if key not in given and not key.endswith(".num_batches_tracked")
    ]
    misshapen = [
        _change(key, value, wanted)
        for key, value in given.items()
        if key in wanted and value.shape != wanted[key].shape
    ]
    problems = [
        _listed("missing", missing),
        _listed("unexpected", [key for key in given if key not in wanted]),
        _listed("of another shape", misshapen),
    ]
    return "; ".join(filter(None, problems))


def read_state_dict(path: str | Path, *, whole: bool = True) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU, by the network's own keys.

    Args:
        path: a state dict as `torch.save` writes it (.pth, .pt), also as another checkpoint's
            `state_dict` or `model`; a .safetensors file; or a checkpoint of this project, whose
            keys carry the prefix `network.`, others of which are left out. Parts of keys that
            `torch.compile` and DistributedDataParallel add are taken out. Large files are mapped,
            not read whole: keep the file while the tensors are in use.
        whole: `check_whole` the file first. Without, damage in the tensors stays unseen.

    Raises:
        WeightsError: no such file, a torn file or one of another kind, or a pickle that holds
            anything but tensors and plain containers; no code of the file is run.
    """
    path = Path(path)
    if whole:
        check_whole(path)
    if path.suffix == ".safetensors":
        check_file(path)
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"cannot read weights from {path}: torn, or not a safetensors file ({error})"
            ) from error
    else:
        content = open_checkpoint(path)
    if isinstance(content, Mapping):
        state = _unwrapped(_state_of(content))
        own = {key.removeprefix(PREFIX): v for key, v in state.items() if key.startswith(PREFIX)}
        if all(isinstance(value, Tensor) for value in (own or state).values()):
            return own or state
    raise WeightsError(f"{path} is neither a state dict nor a checkpoint")


def read_checkpoint(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU: plain containers and tensors, or an error.

    Raises:
        WeightsError: as `check_whole` and `open_checkpoint`.
    """
    check_whole(path)
    return open_checkpoint(path)


def check_whole(path: Path) -> None:
    """Read a file through and compare it with its seal (`vgglab.files.replacing`) or, of a zip
    archive without one, with the archive's own checksums. A file that has none of them passes.

    Raises:
        WeightsError: no such file, a torn or an altered one.
    """
    check_file(path)
    try:
        damaged = is_damaged(path)
        if damaged is None and zipfile.is_zipfile(path):
            # torch does not look at the checksums; without this a damaged file loads as noise.
            check_zip(path)
            with zipfile.ZipFile(path) as archive:
                # `torch.serialization.set_crc32_options(False)` leaves all of them 0.
                checked = any(entry.CRC for entry in archive.infolist())
                damaged = checked and archive.testzip() is not None
    except Exception as error:  # the zip reader fed with noise raises anything
        raise WeightsError(f"cannot read weights from {path}: {_reason(error)}") from error
    if damaged:
        raise WeightsError(f"{path} is torn or was altered: its checksum is wrong")


def open_checkpoint(path: Path) -> Any:
    """`read_checkpoint` without reading the tensors: damage in them stays unseen.

    Raises:
        WeightsError: no such file, a torn one, or a pickle that would run code.
    """
    check_file(path)
    try:
        return load_plain(path)
    except Exception as error:  # an unpickler fed with noise raises anything
        raise WeightsError(f"cannot read weights from {path}: {_reason(error)}") from error


def check_file(path: Path) -> None:
    """Refuse what cannot be a file of weights before it is opened: a pipe would be waited for.

    Raises:
        WeightsError: it is no file, or empty.
    """
    if not path.is_file():
        raise WeightsError(f"no weights at {path}; give a file, or {PUBLIC} for torchvision's")
    if path.stat().st_size == 0:
        raise WeightsError(f"cannot read weights from {path}: the file is empty")


def _reason(error: Exception) -> str:
    """One line: torch's own messages are pages, and advise to load without safety."""
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, RefusedError):
        return str(error)
    return f"torn, or not a file of weights ({type(error).__name__})"


def _described(network: nn.Module) -> str:
    """A VGG with the arguments that decide on its shapes, another network by its class."""
    named = ("name", "batch_norm", "head", "width")
    values = [f"{name}={getattr(network, name)}" for name in named if hasattr(network, name)]
    return f"{type(network).__name__}({', '.join(values)})"


def _public_file(network: nn.Module) -> Path:
    from torchvision.models import get_model_weights  # a second of imports that few runs need

    public = ("vgg11", "vgg13", "vgg16", "vgg19")
    name = getattr(network, "name", None)
    if name not in public:
        raise WeightsError(
            f"there are no public weights {PUBLIC} for {_described(network)}, only for "
            f"{', '.join(public)}, each with and without batch norm"
        )
    url = get_model_weights(f"{name}{'_bn' if network.batch_norm else ''}")[PUBLIC].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if path.exists():
        return path
    digest = path.stem.rpartition("-")[2]  # torchvision's names end in the start of the SHA-256
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _download(url, path, digest)
    except (OSError, HTTPException) as error:
        raise WeightsError(
            f"cannot download {url} ({error}); fetch it by hand and put it at {path}"
        ) from error
    return path


def _download(url: str, path: Path, digest: str) -> None:
    """torch.hub's own shows a bar in a log file too, and once for every process."""
    state = hashlib.sha256()
    with urlopen(url, timeout=_TIMEOUT) as response, replacing(path) as part:
        total = int(response.headers["Content-Length"] or 0) or None
        with part.open("wb") as file, progress(path.name, total, unit="bytes") as advance:
            while block := response.read(_BLOCK):
                file.write(block)
                state.update(block)
                advance(len(block))
        if not state.hexdigest().startswith(digest):
            raise OSError(f"its SHA-256 does not begin with {digest}")


def _last_layer_of_other_classes(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> list[str]:
    """The last layer's keys where it differs from the file's in the number of classes alone."""
    keys = list(wanted)[-2:]  # weight and bias
    if not all(key in given and given[key].ndim == wanted[key].ndim for key in keys):
        return []
    same_classes = len(given[keys[0]]) == len(wanted[keys[0]])
    same_inputs = given[keys[0]].shape[1:] == wanted[keys[0]].shape[1:]
    return keys if same_inputs and not same_classes else []


def _state_of(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """A checkpoint's state dict, where Lightning and PyTorch's examples or torchvision keep it."""
    inner = (content.get(key) for key in ("state_dict", "model"))
    return next((value for value in inner if isinstance(value, Mapping)), content)


def _unwrapped(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        ".".join(part for part in str(key).split(".") if part not in WRAPPERS): value
        for key, value in state.items()
    }


def _change(key: str, value: Tensor, wanted: Mapping[str, Tensor]) -> str:
    return f"{key} {tuple(value.shape)} in the file, {tuple(wanted[key].shape)} in the network"


def _listed(what: str, keys: list[str]) -> str:
    if not keys:
        return ""
    more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return f"{what}: {', '.join(keys[:3])}{more}"
