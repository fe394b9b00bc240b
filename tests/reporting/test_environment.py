"""environment.json says what somebody needs to repeat a run, and no more."""

import getpass
import hashlib
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import torch

from vgglab.reporting import environment as module
from vgglab.reporting.environment import environment, write_json


def test_it_knows_versions_hardware_command_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    script = str(Path.cwd() / "scripts" / "train.py")
    monkeypatch.setattr(sys, "argv", [script, "data.root=/a folder"])
    found = environment()
    assert found["command"] == "python scripts/train.py 'data.root=/a folder'"
    assert found["versions"]["python"] == sys.version.split()[0]
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert all(found["versions"].values())
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory"] > 2**28
    assert found["hardware"]["cpu"]
    assert len(found["hardware"]["gpus"]) == torch.cuda.device_count()
    assert datetime.fromisoformat(found["started"]).tzinfo is not None


def test_it_tells_nothing_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2-hunter2")
    monkeypatch.setattr("platform.node", lambda: "some-host-name")
    monkeypatch.setattr("socket.gethostname", lambda: "some-host-name")
    monkeypatch.setenv("LOGNAME", "some-user-name")
    assert getpass.getuser() == "some-user-name"
    text = json.dumps(environment())
    for private in ("hunter2", "SECRET", "some-host-name", "some-user-name"):
        assert private not in text


def test_the_command_holds_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ["+data.hub_token=hunter2", "data.root=s3://me:hunter2@bucket/x", "a.passwd='h u'"]
    monkeypatch.setattr(sys, "argv", ["train.py", *secrets, "seed=1"])
    stored = "'+data.hub_token=***' 'data.root=s3://***@bucket/x' 'a.passwd=***' seed=1"
    assert environment()["command"] == f"python train.py {stored}"


def test_git_state_is_the_commit_and_the_hash_of_the_diff(tmp_path: Path) -> None:
    def git(*arguments: str) -> bytes:
        identity = ["-c", "user.name=x", "-c", "user.email=x"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True).stdout

    assert module._git(tmp_path) is None
    git("init")
    assert module._git(tmp_path) is None  # no commit yet
    file = tmp_path / "file"
    file.write_text("one\n")
    git("add", "file")
    git("commit", "-m", "first")
    clean = module._git(tmp_path)
    assert clean == {
        "commit": git("rev-parse", "HEAD").decode().strip(),
        "dirty": False,
        "diff_sha256": hashlib.sha256(b"").hexdigest(),
    }
    file.write_text("two\n")
    changed = module._git(tmp_path)
    assert changed == {
        **clean,
        "dirty": True,
        "diff_sha256": hashlib.sha256(git("diff", "HEAD")).hexdigest(),
    }


def test_json_is_sorted_and_replaces_the_old_file_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, {"b": 1, "a": [2]})
    assert path.read_text() == '{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": [2], "b": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]
