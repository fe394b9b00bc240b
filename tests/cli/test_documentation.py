"""The commands of the README and of the experiment files."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import ROOT, Compose, Script

# A command's words are settings, options or a run's folder; a sentence that begins with a script's
# name is none.
WORD = r"\s+(?:-|\S+=|logs/)\S*|\s+job"
SCRIPT = re.compile(rf"^(?:uv run )?scripts/(\w+)\.py((?:{WORD})*)(?:\s+#.*)?$")


def commands(text: str) -> list[tuple[str, list[str]]]:
    """Script and arguments of every command line in a text."""
    found = [SCRIPT.match(line.strip()) for line in text.splitlines()]
    return [(match[1], shlex.split(match[2])) for match in found if match]


def documented() -> list[tuple[str, list[str]]]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    readme = commands("\n".join(page.read_text(encoding="utf-8") for page in pages))
    files = sorted((ROOT / "conf").rglob("*.yaml"))
    heads = [line.removeprefix("# ") for path in files for line in path.read_text().splitlines()]
    found = readme + commands("\n".join(heads))
    return [command for i, command in enumerate(found) if command not in found[:i]]


def experiments() -> list[str]:
    folder = ROOT / "conf/experiment"
    paths = sorted(folder.rglob("*.yaml"))
    return [path.relative_to(folder).with_suffix("").as_posix() for path in paths]


def test_the_readme_opens_with_the_two_commands() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    assert blocks[0] == "pip install uv && uv run scripts/train.py\n"
    assert blocks[1] == "pip install uv && uv run pytest\n"


@pytest.mark.parametrize("name", experiments())
def test_an_experiment_opens_with_its_command(name: str) -> None:
    text = (ROOT / f"conf/experiment/{name}.yaml").read_text(encoding="utf-8")
    command = commands(text.replace("# ", ""))[0]
    assert command[0] == "train"
    assert name == "digits" or f"experiment={name}" in command[1]


def test_the_readme_names_every_script_and_group() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path in (ROOT / "scripts").glob("*.py"):
        assert path.name in readme
    for folder in (ROOT / "conf").iterdir():
        if folder.is_dir() and folder.name not in ("hydra", "local", "loss"):
            assert f"`{folder.name}`" in readme
    for name in experiments():
        page = "docs/paper.md" if name.startswith("paper/") else "README.md"
        assert f"`{name.removeprefix('paper/')}`" in (ROOT / page).read_text(encoding="utf-8")


def name_of(command: tuple[str, list[str]]) -> str:
    return " ".join([command[0], *command[1]])[:80]


COMMANDS = documented()
FIRSTS = {name: (name, arguments) for name, arguments in reversed(COMMANDS)}.values()


def check_composes(command: tuple[str, list[str]], run: Script) -> None:
    name, arguments = command
    if "--multirun" in arguments:
        arguments = [argument.split(",")[0] for argument in arguments if argument[0] != "-"]
    if "--cfg" not in arguments and "--help" not in arguments:
        arguments = [*arguments, "--cfg", "job"]
    done = run(name, *arguments)
    assert done.returncode == 0, done.stderr
    assert "run_dir:" in done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=name_of)
def test_a_documented_command_composes(
    command: tuple[str, list[str]], composed: Compose, script: Script
) -> None:
    name, arguments = command
    if all("=" in word and word[0] != "-" for word in arguments):
        composed(name, *arguments)
    else:  # what only a script understands
        check_composes(command, script)


@pytest.mark.parametrize("command", FIRSTS, ids=name_of)
def test_a_script_is_a_command(command: tuple[str, list[str]], process: Script) -> None:
    check_composes(command, process)


@pytest.mark.slow
def test_the_readmes_story_runs(script: Script, process: Script, tmp_path: Path) -> None:
    """Train, resume, replay, export, evaluate, predict in the README's own words, cut short.

    A script runs in a process of its own the first time.
    """
    (tmp_path / "photos").mkdir()
    Image.effect_noise((20, 30), 64).save(tmp_path / "photos/noise.png")
    ran = set()
    for name, arguments in commands((ROOT / "README.md").read_text(encoding="utf-8")):
        line = " ".join(arguments)
        if name == "train" and "hydra.run.dir=logs/mine" not in line:
            continue
        if name == "train":
            arguments = [*arguments, "trainer.max_epochs=1"]
        elif "/data/" in line or name in ("summarize", "plan", "benchmark", "dashboard", "compare"):
            continue
        run = script if name in {name for name, _ in ran} else process
        done = run(name, *arguments)
        assert done.returncode == 0, f"{name} {line}: {done.stderr}"
        ran.add((name, "resume=auto" in line))
    once = {name for name, resumes in ran if not resumes}
    assert ("train", True) in ran
    assert once == {
        "train",
        "replay",
        "export_weights",
        "evaluate",
        "predict",
        "report",
        "paper_tables",
        "receptive_field",
    }
