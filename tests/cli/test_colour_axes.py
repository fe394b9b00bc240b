"""scripts/colour_axes.py as a user runs it."""

import json
from pathlib import Path

from tests.conftest import Script


def test_axes_are_computed_once_and_then_read(
    process: Script, script: Script, tmp_path: Path
) -> None:
    arguments = ("data=synthetic", "data.train_size=20", "output=axes.json")
    first = process("colour_axes", *arguments)
    assert first.returncode == 0, first.stderr
    path = tmp_path / "axes.json"
    content = json.loads(path.read_text())
    assert f"eigenvalue {content['eigenvalues'][0]:.5f}" in first.stdout
    content["eigenvalues"][0] = 0.5  # would be computed otherwise
    path.write_text(json.dumps(content))
    kept = script("colour_axes", *arguments).stdout
    assert "eigenvalue 0.50000" in kept
    assert "kept from an earlier run" in kept
    assert "eigenvalue 0.50000" not in script("colour_axes", *arguments, "again=true").stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["axes.json"]
