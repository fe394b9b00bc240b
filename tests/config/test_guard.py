"""A configuration file from a stranger: what Hydra would do with it, and that it is refused."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hydra._internal.hydra
import pytest
import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tests.conftest import ROOT, TINY, Script
from vgglab.config import guard
from vgglab.config.errors import explain
from vgglab.config.file_rules import for_the_command_line
from vgglab.errors import InputError

# A program like those of scripts/, but quick: it leaves `owned` when a file has got its way.
PROGRAM = f"""
import os
from contextlib import nullcontext

import hydra

if os.environ["GUARDED"] == "1":
    from vgglab.config.door import readable_errors as door
else:
    door = nullcontext

@hydra.main(version_base="1.3", config_path={str(ROOT / "conf")!r}, config_name="train")
def main(config):
    if config.allowed_targets or "EVIL" in os.environ:
        open("owned", "w").close()

if __name__ == "__main__":
    with door():
        main()
"""

OPEN = "{_target_: builtins.open, file: owned, mode: w}"
FACTORY = "{version: 1, root: {}, filters: {x: {(): builtins.open, file: owned, mode: w}}}"
HANDLER = "handlers: {x: {class: logging.FileHandler, filename: owned}}"
EXPERIMENT = "experiment/evil.yaml"
GLOBAL = "# @package _global_\n"

# The stranger's files, and what the line must name.
ATTACKS = {
    "callback": ({EXPERIMENT: f"{GLOBAL}hydra: {{callbacks: {{x: {OPEN}}}}}"}, "hydra.callbacks"),
    "callback by interpolation": (
        {EXPERIMENT: f"{GLOBAL}name: {{x: {OPEN}}}\nhydra: {{callbacks: '${{name}}'}}"},
        "hydra.callbacks",
    ),
    "package": ({EXPERIMENT: f"# @package hydra.callbacks.x\n{OPEN}"}, "hydra.callbacks"),
    "package in a list": (
        {
            EXPERIMENT: f"{GLOBAL}defaults: [/debug@hydra.callbacks.x: evil]",
            "debug/evil.yaml": OPEN,
        },
        "hydra.callbacks",
    ),
    "group of Hydra's": (
        {
            EXPERIMENT: f"{GLOBAL}defaults: [override /hydra/hydra_logging: evil]",
            "hydra/hydra_logging/evil.yaml": FACTORY,
        },
        "hydra.hydra_logging.filters.x.()",
    ),
    "logging": ({EXPERIMENT: f"{GLOBAL}hydra: {{job_logging: {{{HANDLER}}}}}"}, "x.class"),
    "logging of Hydra": (
        {EXPERIMENT: f"{GLOBAL}hydra: {{hydra_logging: {{{HANDLER}}}}}"},
        "hydra.hydra_logging.handlers.x.class",
    ),
    "targets": ({EXPERIMENT: f"{GLOBAL}allowed_targets: [os]"}, "allowed_targets"),
    "targets, and overrides to show for it": (
        {
            EXPERIMENT: f"{GLOBAL}allowed_targets: [os]\n"
            "hydra: {overrides: {task: ['allowed_targets=[os]']}}"
        },
        "allowed_targets",
    ),
    "targets by a sweep": (
        {
            EXPERIMENT: f"{GLOBAL}hydra: {{mode: MULTIRUN, "
            "sweeper: {params: {++allowed_targets: '[os]'}}}"
        },
        "hydra.sweeper.params.++allowed_targets",
    ),
    "environment": (
        {EXPERIMENT: f"{GLOBAL}hydra: {{job: {{env_set: {{EVIL: '1'}}}}}}"},
        "hydra.job.env_set",
    ),
    "folder": ({EXPERIMENT: f"{GLOBAL}hydra: {{run: {{dir: ../work/owned}}}}"}, "hydra.run.dir"),
    "defaults of the machine": (
        {"local/default.yaml": f"{GLOBAL}hydra: {{callbacks: {{x: {OPEN}}}}}", EXPERIMENT: ""},
        "hydra.callbacks",
    ),
}
IN_PROCESSES = ("callback", "logging", "targets by a sweep", "environment")


def put(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run(
    folder: Path, files: dict[str, str], *arguments: str, guarded: bool
) -> "subprocess.CompletedProcess[str]":
    (folder / "program").mkdir()
    (folder / "program/program.py").write_text(PROGRAM)
    (folder / "work").mkdir()
    put(folder / "stranger", files)
    environment = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"}
    return subprocess.run(
        [sys.executable, "../program/program.py", *arguments],
        cwd=folder / "work",
        env={**environment, "GUARDED": str(int(guarded))},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize("attack", IN_PROCESSES)
def test_a_strangers_file_runs_nothing(attack: str, tmp_path: Path) -> None:
    files, named = ATTACKS[attack]
    done = run(tmp_path, files, "--config-dir=../stranger", "experiment=evil", guarded=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert named in line
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.faults
@pytest.mark.parametrize("attack", ATTACKS)
def test_without_the_guard_it_would(attack: str, tmp_path: Path) -> None:
    files, _ = ATTACKS[attack]
    run(tmp_path, files, "--config-dir=../stranger", "experiment=evil", guarded=False)
    assert (tmp_path / "work/owned").exists()


@pytest.mark.parametrize("guarded", [False, True])
def test_a_search_path_imports_nothing(
    guarded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packages/evil").mkdir(parents=True)
    (tmp_path / "packages/evil/__init__.py").write_text("open('owned', 'w').close()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    files = {"evil.yaml": "allowed_targets: []\nhydra: {searchpath: [pkg://evil]}"}
    arguments = ("--config-path=../stranger", "--config-name=evil")
    done = run(tmp_path, files, *arguments, guarded=guarded)
    assert (tmp_path / "work/owned").exists() != guarded, done.stderr
    if guarded:
        assert done.returncode == 2
        assert "hydra.searchpath" in done.stderr


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Path]:
    """A folder of a stranger's configuration files, and the guard in place."""
    before = hydra._internal.hydra.ConfigLoaderImpl
    guard.install()
    yield tmp_path
    hydra._internal.hydra.ConfigLoaderImpl = before


def composed(folder: Path, text: str, *overrides: str, name: str = "train") -> DictConfig:
    if text:
        put(folder, {EXPERIMENT: f"{GLOBAL}{text}"})
    return composed_with(folder, *(["experiment=evil"] if text else []), *overrides, name=name)


def composed_with(folder: Path, *overrides: str, name: str = "train") -> DictConfig:
    path = f"hydra.searchpath=[file://{folder}]"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(name, overrides=[path, *overrides], return_hydra_config=True)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_strangers_file_is_refused(attack: str, stranger: Path) -> None:
    files, named = ATTACKS[attack]
    put(stranger, files)
    with pytest.raises(InputError) as caught:
        composed_with(stranger, "experiment=evil")
    assert named in str(caught.value)


def test_a_few_lines_do_not_fill_the_memory(stranger: Path) -> None:
    lines = ["data:", "  x0: &a0 [x]"]
    lines += [f"  x{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    with pytest.raises(InputError, match=r"evil\.yaml has YAML aliases"):
        composed(stranger, "\n".join(lines))


def test_ones_own_defaults_of_the_machine_may_say_more(
    stranger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(stranger, {"local/default.yaml": f"{GLOBAL}hydra: {{run: {{dir: /scratch/me}}}}"})
    with pytest.raises(InputError, match=r"hydra\.run\.dir"):
        composed_with(stranger)
    monkeypatch.setattr(guard, "_CONF", stranger)
    assert composed_with(stranger).hydra.run.dir == "/scratch/me"
    put(stranger, {EXPERIMENT: f"{GLOBAL}hydra: {{run: {{dir: /scratch/me}}}}"})
    with pytest.raises(InputError, match=r"hydra\.run\.dir"):
        composed_with(stranger, "experiment=evil")


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ("hydra: null", "hydra"),
        ("name: {callbacks: {}}\nhydra: ${name}", "hydra"),
        ("hydra: {job: {env_copy: [HF_TOKEN]}}", "hydra.job.env_copy"),
        ("hydra: {job: {chdir: true}}", "hydra.job.chdir"),
        ("hydra: {job: {name: ..}}", "hydra.job.name"),
        ("hydra: {job: {name: '${name}'}}", "hydra.job.name"),
        ("hydra: {job: {config: {override_dirname: {kv_sep: /}}}}", "hydra.job.config"),
        ("hydra: {job: '${data}'}", "hydra.job"),
        ("hydra: {verbose: '${name}'}", "hydra.verbose"),
        ("hydra: {sweeper: {study_name: 'a b'}}", "hydra.sweeper.study_name"),
        ("hydra: {sweeper: {params: {callbacks.x.dirpath: /}}}", "params.callbacks.x.dirpath"),
        ("hydra: {sweeper: {params: {callbacks.x: '{dirpath: /}'}}}", "params.callbacks.x"),
        ("hydra: {sweeper: {params: {callbacks: '{x: {dirpath: /}}'}}}", "params.callbacks"),
        ("hydra: {overrides: {hydra: [hydra.run.dir=/]}}", "hydra.overrides"),
        ("hydra: {output_subdir: .hydra}", "hydra.output_subdir"),
        ("hydra: {mode: '${name}'}", "hydra.mode"),
        ("hydra: {run: {dir: /tmp/x}}", "hydra.run.dir"),
        ("hydra: {run: {dir: 'logs/../../x'}}", "hydra.run.dir"),
        ("hydra: {run: {dir: '${name}'}}", "hydra.run.dir"),
        ("hydra: {run: {dir: '${now:/tmp}'}}", "hydra.run.dir"),
        ("hydra: {run: {dir: '${oc.env:HOME}'}}", "hydra.run.dir"),
        ("hydra: {run: '${data}'}", "hydra.run"),
        ("hydra: {sweep: {subdir: ../x}}", "hydra.sweep.subdir"),
        ("hydra: {job_logging: '${data}'}", "hydra.job_logging"),
        ("hydra: {job_logging: {handlers: {console: {stream: 'ext://os.abort'}}}}", "stream"),
        ("hydra: {job_logging: {handlers: {console: {class: '${name}'}}}}", "console.class"),
        ("hydra: {job_logging: {root: {level: '${name}'}}}", "root.level"),
        ("hydra: {job_logging: {handlers: {console: {.: {emit: x}}}}}", "console.."),
        ("hydra: {launcher: {_target_: os.system}}", "hydra.launcher._target_"),
        ("hydra: {launcher: {+setup: [rm]}}", "hydra.launcher.+setup"),
        ('hydra: {launcher: {partition: "a\\nrm -r x"}}', "hydra.launcher.partition"),
        ("hydra: {launcher: {python: ./evil}}", "hydra.launcher.python"),
        ("hydra: {launcher: {partition: '${asked:nodes}'}}", "hydra.launcher.partition"),
        ("hydra: {launcher: {additional_parameters: {export: A=b}}}", "additional_parameters"),
        ("hydra: {sweeper: {params: '${data}'}}", "hydra.sweeper.params"),
        ("hydra: {sweeper: {params: {hydra.run.dir: /}}}", "params.hydra.run.dir"),
        ("hydra: {sweeper: {params: {+hydra/callbacks: x}}}", "params.+hydra/callbacks"),
        ("hydra: {sweeper: {params: {'allowed_targets=[os]#': x}}}", "params.allowed_targets"),
        ("hydra: {sweeper: {sampler: {_target_: os.system}}}", "hydra.sweeper.sampler"),
        ("hydra: {sweeper: {params: {logger.csv.save_dir: /}}}", "params.logger.csv.save_dir"),
        ("callbacks: {last_checkpoint: {dirpath: /tmp}}", "callbacks.last_checkpoint.dirpath"),
        ("callbacks: {last_checkpoint: {filename: '../x'}}", "callbacks.last_checkpoint.filename"),
        ("callbacks: {last_checkpoint: {dirpath: '${data.root}'}}", "last_checkpoint.dirpath"),
        ("callbacks: {x: '${model}'}", "callbacks.x"),
        ("callbacks: ${model}", "callbacks"),
        ("logger: {csv: {save_dir: 's3://bucket/x'}}", "logger.csv.save_dir"),
        ("slurm: {setup: [rm]}", "slurm.setup"),
        ("slurm: {command: ./evil}", "slurm.command"),
        ("slurm: {options: '${data}'}", "slurm.options"),
        ("slurm: ${data}", "slurm"),
        ("run_dir: /tmp/x", "run_dir"),
        ("run_dir: ${data.root}", "run_dir"),
        ("allowed_targets: ${oc.create:[os]}", "allowed_targets"),
        ("allowed_targets: {os: 1}", "allowed_targets"),
    ],
)
def test_what_only_the_command_line_may_say(stranger: Path, section: str, named: str) -> None:
    with pytest.raises(InputError) as caught:
        composed(stranger, section)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "section",
    [
        "hydra: {run: {dir: 'logs/${hydra.runtime.choices.model}/${now:%Y-%m-%d_%H:%M}'}}",
        "hydra: {sweep: {subdir: '${hydra:job.num}'}, mode: MULTIRUN}",
        "hydra: {sweeper: {params: {optimizer.lr: '0.1,0.2', +data.pad: 4}, max_batch_size: 3}}",
        "hydra: {job_logging: {root: {level: DEBUG}}}",
        "hydra: {job: {name: mine, chdir: false}, verbose: [vgglab]}",
        "hydra: {job: {config: {override_dirname: {exclude_keys: [seed]}}, chdir: null}}",
        "hydra: {sweeper: {params: {callbacks.ema.decay: '0.9,0.99'}}}",
        "hydra: {sweeper: {params: {callbacks: '[default,ema],default'}}}",
        "allowed_targets: []",
        "run_dir: ${hydra:runtime.output_dir}",
        "callbacks: {last_checkpoint: {dirpath: '${run_dir}/x', filename: 'e{epoch:03d}'}}",
        "callbacks: {early_stopping: {patience: '${trainer.max_epochs}', monitor: a/b}}",
    ],
)
def test_what_a_file_may_say(stranger: Path, section: str) -> None:
    composed(stranger, section)


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf").glob("*.yaml")))
def test_our_own_files_pass(stranger: Path, name: str) -> None:
    given = ["data=digits"] if name == "shard_dataset" else []  # which has no data by default
    composed(stranger, "", *given, name=name)


@pytest.mark.parametrize(
    "group", ["experiment", "callbacks", "logger", "debug", "sweep", "hydra/launcher"]
)
def test_our_own_choices_pass(stranger: Path, group: str) -> None:
    for path in sorted((ROOT / "conf" / group).rglob("*.yaml")):
        choice = path.relative_to(ROOT / "conf" / group).with_suffix("")
        composed(stranger, "", f"{group}={choice}")


def test_the_command_line_may_say_everything(stranger: Path) -> None:
    said = ["hydra.run.dir=/tmp/x", "+hydra.job.env_set.A=b", "hydra.job.chdir=true", "run_dir=x"]
    said += ["hydra/job_logging=default", "+hydra.callbacks.x._target_=os.system"]
    config = composed(stranger, "seed: 3", *said)
    assert (config.hydra.run.dir, config.hydra.job.env_set.A) == ("/tmp/x", "b")
    assert config.hydra.callbacks.x._target_ == "os.system"


@pytest.mark.parametrize(
    "section",
    [
        "hydra: {launcher: {prefer: threads, backend: loky, constraint: a100|h100}}",
        "hydra: {sweeper: {direction: maximize, study_name: mine}}",
    ],
)
def test_what_a_file_may_tell_a_plugin(section: str) -> None:
    # Without the plugin, Hydra's own have no such settings.
    assert list(for_the_command_line(yaml.safe_load(section), [])) == []


def test_what_is_allowed_by_name_is_told_any_name() -> None:
    loggers = "lightning.pytorch.loggers"
    for target, refused in (("WandbLogger", []), ("CSVLogger", ["logger.x.name"])):
        content = {"logger": {"x": {"_target_": f"{loggers}.{target}", "name": "${name}"}}}
        assert list(for_the_command_line(content, [loggers])) == refused
        assert list(for_the_command_line(content, [])) == ["logger.x.name"]


@pytest.mark.parametrize("sign", ["", "+", "++"])
def test_targets_from_the_command_line_are_allowed_in_files(stranger: Path, sign: str) -> None:
    target = "logging.FileHandler"
    handler = f"hydra: {{job_logging: {{handlers: {{x: {{class: {target}}}}}}}}}"
    with pytest.raises(InputError, match=r"x\.class"):
        composed(stranger, handler)
    config = composed(stranger, handler, f"{sign}allowed_targets=[{target}]")
    assert config.allowed_targets == [target]


def test_files_are_named_by_their_place_in_conf(stranger: Path) -> None:
    with pytest.raises(InputError, match="within conf"):
        composed(stranger, "", "experiment=../experiment/digits")


def test_a_pickled_job_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "stranger").mkdir()
    attack = b"cbuiltins\nopen\n(S'owned'\nS'w'\ntR."
    (tmp_path / "stranger/config.pickle").write_bytes(attack)
    done = run(tmp_path, {}, "--experimental-rerun=../stranger/config.pickle", guarded=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "config.pickle: a pickle can run code" in line
    assert not list((tmp_path / "work").iterdir())


def test_targets_arrive_in_every_job_of_a_sweep(tmp_path: Path) -> None:
    arguments = ("--multirun", "experiment=none", "allowed_targets=[os]", "seed=1,2")
    done = run(tmp_path, {}, *arguments, guarded=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "work/owned").exists()


READ = ["HOME", "DATA_ROOT", "SLURM_JOB_ID", "SLURM_TMPDIR", "WORLD_SIZE", "TMP", "PBS_JOBID"]


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_ACCESS_KEY_ID", "DATABASE_URL", "SLURM_JWT", "SSH_AUTH_SOCK", *READ]
)
@pytest.mark.parametrize("form", ["oc.env:X", "oc.${name}:X", r"oc.decode:'\${oc.env:X}'"])
def test_a_file_reads_folders_of_the_environment_alone(
    stranger: Path, monkeypatch: pytest.MonkeyPatch, name: str, form: str
) -> None:
    monkeypatch.setenv(name, "hunter2")
    text = f'name: env\ndata: {{root: "{"${" + form.replace("X", name) + "}"}"}}'.replace(
        "\\", r"\\"
    )
    config = composed(stranger, text)
    if name in READ:
        assert config.data.root == "hunter2"
    else:
        with pytest.raises(OmegaConfBaseException, match=rf"oc\.env:{name}") as caught:
            OmegaConf.to_container(config.data, resolve=True)
        assert str(explain(caught.value)).startswith(f"data.root: ${{oc.env:{name}}}")
        assert "hunter2" not in str(caught.value)


def test_a_missing_folder_of_the_environment_has_a_default_or_a_line(stranger: Path) -> None:
    config = composed(stranger, "name: ${oc.env:NO_SUCH_DIR,data}")
    assert config.name == "data"
    config = composed(stranger, "name: ${oc.env:NO_SUCH_DIR}")
    with pytest.raises(OmegaConfBaseException, match="no such environment variable"):
        _ = config.name


@pytest.mark.slow
def test_targets_of_the_command_line_reach_the_other_processes(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nclass Loss(torch.nn.CrossEntropyLoss):\n    pass\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = ["loss._target_=mine.Loss", "allowed_targets=[mine]", "hydra.run.dir=run"]
    done = script("train", *TINY, *arguments, "accelerator=ddp_cpu")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/metrics.json").is_file()


@pytest.mark.slow
def test_a_runs_folder_holds_no_secret(script: Script, tmp_path: Path) -> None:
    secrets = ["name=https://me:hunter2@host", "+hydra.job.env_set.HF_TOKEN=hunter2"]
    done = script("train", *TINY, *secrets, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {"environment.json", "report.html", "best.ckpt"} <= {path.name for path in files}
    assert not [path.name for path in files if b"hunter2" in path.read_bytes()]
    assert "https://***@host" in (tmp_path / "run/environment.json").read_text()
