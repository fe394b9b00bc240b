"""scripts/export_weights.py: a checkpoint's weights as a file that other programs read."""

import json
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from vgglab.config.jobs import ExportWeightsConfig
from vgglab.errors import InputError
from vgglab.evaluation.trained import CARD, checked_model, read_card
from vgglab.files import replacing
from vgglab.networks import read_state_dict
from vgglab.reporting.terminal import print_result

_SUFFIXES = (".safetensors", ".pth")


def export_weights(job: ExportWeightsConfig) -> None:
    """Write the network that a checkpoint is tested as, by its own keys, with a SHA-256 beside it.

    A .safetensors file also holds the checkpoint's card, in its metadata, so that `load_trained`
    takes it as it takes the checkpoint. A .pth file is a state dict and no more.

    Raises:
        InputError: the checkpoint cannot be used, or the output cannot be written.
    """
    source, output = Path(job.checkpoint), Path(job.output)
    if output.suffix not in _SUFFIXES:
        raise InputError(f"output={output} must end in {' or '.join(_SUFFIXES)}")
    if output.is_dir():
        raise InputError(f"output={output} is a folder")
    card = read_card(source)
    checked_model(source, card, job.allowed_targets)
    # Each in memory of its own, laid out as other programs expect: training keeps convolutions in
    # channels_last, and networks may share tensors.
    state = {
        name: tensor.clone(memory_format=torch.contiguous_format)
        for name, tensor in read_state_dict(source).items()
    }
    try:
        with replacing(output, sealed=True) as temporary:
            if output.suffix == ".safetensors":
                plain = card.model_dump(include={"config", "classes", "preprocessing"})
                metadata = {"format": "pt", CARD: json.dumps(plain)}
                temporary.write_bytes(save(state, metadata))
            else:
                torch.save(state, temporary)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        raise InputError(f"cannot write output={output}: {error}") from error
    _report(output, state)


def _report(output: Path, state: dict[str, Tensor]) -> None:
    size = output.stat().st_size / 2**20
    numbers = sum(tensor.numel() for tensor in state.values())
    print_result(
        {},
        {
            "weights": f"{output} ({len(state):,} tensors, {numbers:,} numbers, {size:,.1f} MiB)",
            "use": f"scripts/evaluate.py checkpoint={output}"
            if output.suffix == ".safetensors"
            else f"weights={output} with model=...",
        },
    )
