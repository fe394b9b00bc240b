"""Files from the network, from servers that fail."""

import hashlib
from contextlib import contextmanager

import pytest

from vgglab.data.sources import download as download_module
from vgglab.data.sources.download import download
from vgglab.errors import InputError

DATA = bytes(i * i % 251 for i in range(1_000_000))
SHA256 = "sha256:" + hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def target(tmp_path, server):
    server.files["good.bin"] = DATA
    server.files["bad.bin"] = DATA[:-1] + b"x"
    return tmp_path / "new" / "file.bin"


def part_of(target, data):
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name("file.bin.part")
    part.write_bytes(data)
    return part


def test_a_file_is_fetched_and_checked(server, target):
    download([server.url("good.bin")], target, checksum=SHA256, size=len(DATA))
    assert target.read_bytes() == DATA
    assert not target.with_name("file.bin.part").exists()


def test_md5_works_too(server, target):
    md5 = "md5:" + hashlib.md5(DATA).hexdigest()
    download([server.url("good.bin")], target, checksum=md5)
    assert target.read_bytes() == DATA


def test_a_file_that_is_there_and_right_is_not_fetched(server, target):
    target.parent.mkdir()
    target.write_bytes(DATA)
    download([server.url("good.bin")], target, checksum=SHA256)
    assert server.ranges == []


def test_a_truncated_file_is_refused_and_fetched_again(server, target, caplog):
    target.parent.mkdir()
    target.write_bytes(DATA[:1000])
    download([server.url("good.bin")], target, checksum=SHA256)
    assert target.read_bytes() == DATA
    assert "incomplete or damaged" in caplog.text


def test_a_partial_file_is_resumed(server, target):
    part_of(target, DATA[:400_000])
    download([server.url("good.bin")], target, checksum=SHA256, size=len(DATA))
    assert target.read_bytes() == DATA
    assert server.ranges == ["bytes=400000-"]


def test_a_server_without_range_makes_it_start_over(server, target):
    server.honours_range = False
    part_of(target, DATA[:400_000])
    download([server.url("good.bin")], target, checksum=SHA256, size=len(DATA))
    assert target.read_bytes() == DATA


def test_a_broken_connection_is_taken_up_again(server, target):
    server.cut_after = [300_000, 200_000]
    download([server.url("good.bin")], target, checksum=SHA256)
    assert target.read_bytes() == DATA
    assert server.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_a_finished_partial_file_is_only_renamed(server, target):
    part_of(target, DATA)
    download([server.url("good.bin")], target, checksum=SHA256)
    assert target.read_bytes() == DATA
    assert server.ranges == [f"bytes={len(DATA)}-"]


def test_a_partial_file_with_other_bytes_is_thrown_away(server, target):
    part_of(target, b"z" * 400_000)
    download([server.url("good.bin")], target, checksum=SHA256)
    assert target.read_bytes() == DATA
    assert server.ranges == ["bytes=400000-", None]


def test_a_dead_mirror_and_a_wrong_one_are_passed_over(server, target, caplog):
    mirrors = ["http://127.0.0.1:9/x.bin", server.url("missing.bin"), server.url("bad.bin")]
    download([*mirrors, server.url("good.bin")], target, checksum=SHA256)
    assert target.read_bytes() == DATA
    assert "HTTP 404" in caplog.text
    assert "wrong checksum" in caplog.text


def test_a_mirror_that_offers_another_size_is_not_read(server, target):
    server.files["page.bin"] = b"<html>log in first</html>"
    with pytest.raises(InputError, match="offers 25 bytes instead of 1,000,000"):
        download([server.url("page.bin")], target, checksum=SHA256, size=len(DATA))
    assert not target.with_name("file.bin.part").exists()


@pytest.mark.parametrize("size", [10, 600_000])
def test_a_server_that_sends_on_is_left(server, target, size):
    server.tells_length = False
    with pytest.raises(InputError, match=f"sends more than {size:,} bytes"):
        download([server.url("good.bin")], target, checksum=SHA256, size=size)
    part = target.with_name("file.bin.part")
    assert part.stat().st_size <= size


def test_a_server_that_does_not_tell_the_length_is_read(server, target):
    server.tells_length = False
    download([server.url("good.bin")], target, checksum=SHA256, size=len(DATA))
    assert target.read_bytes() == DATA


def test_when_all_fail_one_line_says_what_to_do(server, target):
    urls = [server.url("missing.bin"), server.url("bad.bin"), "file:///etc/passwd"]
    with pytest.raises(InputError) as caught:
        download(urls, target, checksum=SHA256)
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        *urls,
        "HTTP 404",
        "wrong checksum",
        "not an http",
        str(target.parent),
        "by hand",
    ):
        assert words in message
    assert sorted(path.name for path in target.parent.iterdir()) == ["file.bin.lock"]


def test_a_folder_that_cannot_be_made_is_one_line(server, tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(InputError, match=r"cannot write .*taken"):
        download([server.url("x")], tmp_path / "taken" / "file.bin", checksum=SHA256)


def test_progress_counts_the_bytes(server, target, monkeypatch):
    counted = []

    @contextmanager
    def progress(what, total, *, done=0, unit):
        counted.append([what, total, unit, done])

        def advance(units):
            counted[-1][-1] += units

        yield advance

    monkeypatch.setattr(download_module, "progress", progress)
    server.cut_after = [300_000]
    download([server.url("good.bin")], target, checksum=SHA256)
    assert counted[0][-1] < len(DATA)  # up to where it was cut
    assert counted[1] == ["file.bin", len(DATA), "bytes", len(DATA)]
    assert counted[2] == ["check file.bin.part", len(DATA), "bytes", len(DATA)]


def test_progress_is_silent_for_short_work(server, target, capsys):
    download([server.url("good.bin")], target, checksum=SHA256)
    assert capsys.readouterr().err == ""
