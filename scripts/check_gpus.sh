#!/usr/bin/env bash
# NEEDS GPUs. Trains a small VGG for eight steps on one GPU and, with each accelerator, on all GPUs of
# this node, and compares: the same data, initialisation and order, so gradients and losses must
# agree up to rounding, or up to the compression where there is one. Before that, the tests of what
# feeds a GPU (copies one batch ahead, sets that live on it, its JPEG decoder) against the CPU.
#
#   scripts/check_gpus.sh          all GPUs of this node, a few minutes
#   scripts/check_gpus.sh gpu 2    two of them
#   scripts/check_gpus.sh gpu 1    only the tests of what feeds it
#   scripts/check_gpus.sh cpu 2    the same comparison over gloo, to try the script; no sync batch norm
#
# Prints a table and exits with 1 if a row differs. PYTHON names another Python than uv's.
set -euo pipefail
cd "$(dirname "$0")/.."
read -ra python <<<"${PYTHON:-uv run python}"
device=${1:-gpu}
count=${2:-$("${python[@]}" -c 'import torch; print(torch.cuda.device_count())')}
folder=${FOLDER:-logs/check_gpus/$(date +%Y-%m-%d_%H-%M-%S)}
if [[ $device != cpu ]]; then
    "${python[@]}" -m pytest -q -n 0 tests/data/test_on_gpu.py
    ((count != 1)) || exit 0
fi
if ((count < 2)); then
    echo "error: two devices or more are needed, not $count" >&2
    exit 2
fi

train() { # name, then overrides
    local name=$1
    shift
    echo "$name"
    "${python[@]}" scripts/train.py experiment=none model.init=glorot model.dropout=0 model.width=0.125 \
        data=synthetic data.num_classes=8 data.train_size=$((32 * count)) data.val_size=100 \
        data.batch_size=$((8 * count)) optimizer.lr=0.001 trainer=deterministic trainer.max_epochs=2 \
        trainer.log_every_n_steps=1 test=false logger=csv 'callbacks=[checkpoints,finite,statistics]' \
        "hydra.run.dir=$folder/$name" "$@" >"$folder/$name.log" 2>&1 ||
        { tail -n 20 "$folder/$name.log" >&2; echo "error: $name failed: $folder/$name.log" >&2; }
}

mkdir -p "$folder"
one=("accelerator=$device")
all=("accelerator.accelerator=$device" "accelerator.devices=$count")
train one model=vgg11 "${one[@]}"
train one_copied model=vgg11 data.on_device=false "${one[@]}"
for accelerator in ddp ddp_bf16_grads fsdp hybrid; do
    train "$accelerator" model=vgg11 "accelerator=$accelerator" "${all[@]}"
done
train ddp_powersgd model=vgg11 accelerator=ddp_powersgd accelerator.powersgd_start_step=2 "${all[@]}"
if [[ $device != cpu ]]; then
    train one_bn model=vgg11_bn "${one[@]}"
    for accelerator in ddp fsdp hybrid; do
        train "${accelerator}_sync_bn" model=vgg11_bn "accelerator=$accelerator" \
            accelerator.sync_batchnorm=true "${all[@]}"
    done
fi

"${python[@]}" - "$folder" <<'PYTHON'
import csv
import sys
from pathlib import Path

import torch

FOLDER = Path(sys.argv[1])
# How far gradients may differ, relative to their size: bfloat16, low rank; all others by rounding (TF32).
ALLOWED = {"ddp_bf16_grads": 0.05, "ddp_powersgd": 0.5}


def gradients(run: str) -> torch.Tensor:
    """The momenta after the last step: the gradients of all steps, without the weights' size."""
    checkpoint = torch.load(FOLDER / run / "checkpoints/last.ckpt", weights_only=True)
    states = checkpoint["optimizer_states"][0]["state"].values()
    return torch.cat([state["momentum_buffer"].double().flatten().cpu() for state in states])


def last(run: str, column: str) -> float:
    with (FOLDER / run / "metrics.csv").open() as file:
        return float([row[column] for row in csv.DictReader(file) if row.get(column)][-1])


wrong = 0
print(f"{'':20}{'val/loss':>10}{'images/s':>10}{'gradients differ by':>21}{'allowed':>9}")
for log in sorted(FOLDER.glob("*.log")):
    run = log.stem
    reference = "one_bn" if run.endswith("_bn") else "one"
    try:
        of_one = gradients(reference)
        differ = float((gradients(run) - of_one).norm() / of_one.norm())
        figures = f"{last(run, 'val/loss'):10.4f}{last(run, 'throughput/images_per_second'):10.0f}"
    except (OSError, LookupError):
        print(f"{run:20}failed, see {log}")
        wrong += 1
        continue
    allowed = ALLOWED.get(run, 0.01)
    verdict = "" if differ <= allowed else "  DIFFERS"
    wrong += bool(verdict)
    print(f"{run:20}{figures}{differ:21.2e}{allowed:9.2f}{verdict}")
sys.exit(wrong > 0)
PYTHON
