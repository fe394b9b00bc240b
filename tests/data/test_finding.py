"""Files by name, folder and glob."""

import os
from pathlib import Path

import pytest

from vgglab.data.finding import find_images
from vgglab.errors import InputError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Names are enough: nothing is decoded."""
    folder = tmp_path / "photos"
    names = ["b.png", "deep/a.JPG", "[1].png", "1.png", "._a.jpg", ".trash/c.png", "notes.txt"]
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    return folder


def found(*patterns: str) -> list[str]:
    """Below `photos`."""
    return ["/".join(p.parts[p.parts.index("photos") + 1 :]) for p in find_images(patterns)]


def test_files_folders_and_globs_are_found(photos: Path) -> None:
    assert found(f"{photos}") == ["1.png", "[1].png", "b.png", "deep/a.JPG"]
    assert found(f"{photos}/*.png") == ["1.png", "[1].png", "b.png"]
    assert found(f"{photos}/de*") == ["deep/a.JPG"]
    assert found(f"{photos}/**") == found(str(photos))  # each once
    assert found(f"{photos}/b.png", f"{photos}/deep") == ["b.png", "deep/a.JPG"]


def test_a_name_that_exists_is_no_glob(photos: Path) -> None:
    assert found(f"{photos}/[1].png") == ["[1].png"]
    assert found(f"{photos}/[12].png") == ["1.png"]


def test_hidden_files_are_found_by_their_own_names_alone(photos: Path) -> None:
    assert found(f"{photos}/._a.jpg") == ["._a.jpg"]
    assert found(f"{photos}/.trash") == [".trash/c.png"]


def test_the_home_folder_has_its_short_name(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    assert found("~/photos/b.png") == ["b.png"]


@pytest.mark.parametrize("name", ["*.gif", "nowhere", "notes.txt", "pipe.png", "folder.png"])
def test_what_is_no_image_is_named(photos: Path, name: str) -> None:
    with pytest.raises(InputError, match="no image file there"):
        find_images([f"{photos}/b.png", f"{photos}/{name}"])
    with pytest.raises(InputError, match="names no image"):
        find_images([])
