"""Folders of runs, as the scripts leave them, without the runs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from vgglab.comparison.finding import common_names, find_runs
from vgglab.comparison.runs import Run, read_run

CONFIG: dict[str, Any] = {
    "name": "${hydra:runtime.choices.experiment}",
    "seed": 0,
    "model": {"_target_": "vgglab.networks.build_vgg", "name": "vgg11"},
    "data": {"_target_": "vgglab.data.Digits", "seed": "${seed}", "batch_size": 64},
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9},
    "scheduler": {"peak": "${optimizer.lr}"},
    "trainer": {"max_epochs": 2},
    "callbacks": {"best": {"dirpath": "${run_dir}/checkpoints", "folder": "${run_dir}"}},
    "run_dir": "${hydra:runtime.output_dir}",
}
TEST: dict[str, Any] = {
    "checkpoint": None,
    "weights": None,
    "model": None,
    "seed": 0,
    "protocol": "dense",
    "scales": None,
    "run_dir": "${hydra:runtime.output_dir}",
}


def run_folder(
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    base: Mapping[str, Any] = CONFIG,
    choices: Mapping[str, str] | None = None,
    overrides: tuple[str, ...] = (),
    metrics: Mapping[str, float] | None = None,
    history: str = "",
    status: Mapping[str, Any] | None = None,
    parameters: int | None = None,
) -> Path:
    """Write a run's folder; `changes` are settings by dotted name, None takes one out."""
    (folder / ".hydra").mkdir(parents=True)
    config = OmegaConf.create(json.loads(json.dumps(base)))
    for name, value in (changes or {}).items():
        OmegaConf.update(config, name, value)
    hydra = {
        "runtime": {
            "output_dir": str(folder),
            "choices": {"experiment": "digits", "hydra/launcher": "basic", **(choices or {})},
        }
    }
    (folder / ".hydra/config.yaml").write_text(OmegaConf.to_yaml(config))
    (folder / ".hydra/hydra.yaml").write_text(yaml.safe_dump({"hydra": hydra}))
    (folder / ".hydra/overrides.yaml").write_text(yaml.safe_dump(list(overrides)))
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps(metrics))
    if history:
        (folder / "metrics.csv").write_text(history)
    if status is not None:
        when = "2026-01-02T03:04:05+00:00"
        known = {"error": None, "started": when, "attempt_started": when, "ended": when}
        counted = {"seconds": 0.0, "devices": 1, "device_seconds": 0.0, "attempts": 1}
        (folder / "status.json").write_text(json.dumps({**known, **counted, **status}))
    if parameters is not None:
        counted = {"parameters": parameters, "trainable": parameters, "mult_adds": 0}
        network = {"input_size": [1, 8, 8], **counted, "layers": []}
        (folder / "network.json").write_text(json.dumps(network))
    return folder


def read_all(root: Path, problems: list[str] | None = None) -> list[Run]:
    """Every run below a folder."""
    folders = find_runs([str(root)])
    told: list[str] = [] if problems is None else problems
    return [read_run(*named, told) for named in zip(folders, common_names(folders), strict=True)]
