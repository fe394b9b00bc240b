"""Archives of strangers: what is unpacked, and what is refused."""

import gzip
import io
import os
import shutil
import subprocess
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fuzz.archives import header, pax

from vgglab.data.sources.archives import extract, open_tar, read_member
from vgglab.errors import InputError

DATA = bytes(i * i % 251 for i in range(1_000_000))


def archive(tmp_path, *members, name="a.tar", mode="w"):
    path = tmp_path / name
    with tarfile.open(path, mode) as tar:
        for member, data in members:
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def plain(name, data=b"data"):
    return tarfile.TarInfo(name), data


def special(name, kind, link=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member, b""


def unpack(path, folder, *, max_bytes=100_000, max_members=10):
    with open_tar(path, max_bytes=max_bytes, max_members=max_members, name=path.name) as tar:
        return extract(tar, folder, archive=path.name)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_plain_files_and_folders_are_unpacked(tmp_path, mode):
    path = archive(
        tmp_path, special("d", tarfile.DIRTYPE), plain("d/x"), plain("y", b"why"), mode=mode
    )
    assert unpack(path, tmp_path / "out") == 2
    assert (tmp_path / "out/d/x").read_bytes() == b"data"
    assert (tmp_path / "out/y").read_bytes() == b"why"


def long_name(form):
    """A member of more bytes than a header may have, behind an extension."""
    member = tarfile.TarInfo("n" * 120)
    member.mtime, member.size = 1.5, 20_000
    extended = member.tobuf(form, "utf-8", "strict")
    assert len(extended) >= 3 * tarfile.BLOCKSIZE
    return extended + DATA[:20_000].ljust(40 * tarfile.BLOCKSIZE, b"\0")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_behind_extensions_may_be_large(tmp_path, form):
    (tmp_path / "a.tar").write_bytes(long_name(form) + FILE + END)
    assert unpack(tmp_path / "a.tar", tmp_path / "out", max_members=2) == 2
    assert (tmp_path / "out" / ("n" * 120)).read_bytes() == DATA[:20_000]
    with pytest.raises(InputError, match="more than 19,000 bytes"):
        unpack(tmp_path / "a.tar", tmp_path / "out2", max_bytes=19_000)


@pytest.mark.skipif(not shutil.which("tar"), reason="no tar program")
@pytest.mark.parametrize("form", ["pax", "gnu", "ustar"])
def test_what_the_tar_program_writes_is_unpacked(tmp_path, form):
    folder = tmp_path / ("d" * 70)
    folder.mkdir()
    for name in ("a" * 60, "b"):
        (folder / name).write_bytes(DATA[:20_000])
    command = ["tar", f"--format={form}", "-cf", tmp_path / "a.tar", "-C", tmp_path, folder.name]
    subprocess.run(command, check=True)
    assert unpack(tmp_path / "a.tar", tmp_path / "out") == 2
    for path in folder.iterdir():
        assert (tmp_path / "out" / folder.name / path.name).read_bytes() == DATA[:20_000]


@pytest.mark.parametrize(
    "member",
    [
        plain("../escaped"),
        plain("d/../../escaped"),
        plain("/tmp/escaped"),
        special("link", tarfile.SYMTYPE, "/etc/passwd"),
        special("link", tarfile.SYMTYPE, "inside"),
        special("hard", tarfile.LNKTYPE, "ok"),
        special("device", tarfile.CHRTYPE),
        special("block", tarfile.BLKTYPE),
        special("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member[0].name} {member[0].type}",
)
def test_hostile_members_are_refused_by_name(tmp_path, member):
    path = archive(tmp_path, plain("ok"), member)
    with pytest.raises(InputError, match=rf"a\.tar: member '{member[0].name}'.*refused"):
        unpack(path, tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("escaped"))
    assert [p.name for p in (tmp_path / "deep" / "out").iterdir()] == ["ok"]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "a", "b", ""]), min_size=1, max_size=6))
def test_no_name_leaves_the_folder(tmp_path_factory, parts):
    folder = tmp_path_factory.mktemp("escape")
    path = archive(folder, plain("/".join([*parts, "file"])))
    inside = ".." not in parts and parts[0] != ""
    try:
        unpack(path, folder / "out")
    except InputError:
        assert not inside
    else:
        assert inside
    assert all(folder / "out" in found.parents for found in folder.rglob("file"))


def test_too_much_is_refused(tmp_path):
    bomb = archive(tmp_path, plain("zeros", bytes(2_000_000)), name="bomb.tar.gz", mode="w:gz")
    assert bomb.stat().st_size < 10_000
    with pytest.raises(InputError, match="more than 100,000 bytes"):
        unpack(bomb, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    many = archive(tmp_path, *(plain(f"f{i}", b"") for i in range(11)), name="many.tar")
    with pytest.raises(InputError, match=r"many\.tar: too many members"):
        unpack(many, tmp_path / "out2")


def test_what_is_no_archive_is_one_line(tmp_path):
    (tmp_path / "text.tar").write_text("no archive at all")
    whole = archive(tmp_path, plain("x", DATA), name="whole.tar.gz", mode="w:gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "spoilt.tar.gz").write_bytes(whole[:500] + bytes(500) + whole[1000:])
    for name in ("text.tar", "cut.tar.gz", "spoilt.tar.gz"):
        with pytest.raises(InputError, match=f"{name}: broken or incomplete archive"):
            unpack(tmp_path / name, tmp_path / "out", max_bytes=10**7)
    with pytest.raises(InputError, match=r"none\.tar: no such file"):
        unpack(tmp_path / "none.tar", tmp_path / "out")


def test_a_member_is_read_from_a_tar_within_a_tar(tmp_path):
    inner = archive(tmp_path, plain("x", b"deep"), name="inner.tar").read_bytes()
    outer = archive(tmp_path, plain("inner.tar", inner), name="outer.tar")
    bounds = {"max_bytes": 100_000, "max_members": 10}
    with open_tar(outer, **bounds) as tar:
        stream = tar.extractfile("inner.tar")
        assert stream is not None
        with open_tar(stream, **bounds, name="inner") as within:
            assert read_member(within, "x", "inner") == b"deep"
            with pytest.raises(InputError, match="inner: no file 'y' in it"):
                read_member(within, "y", "inner")


END = bytes(1024)
FILE = header("f", tarfile.REGTYPE, 4, b"data")


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (header("f", tarfile.REGTYPE, -1024), "negative size"),
        (pax(size=-1024) + FILE, "negative size"),
        (header("f", tarfile.REGTYPE, 2**33), "more than 100,000 bytes"),
        (header("f", tarfile.REGTYPE, 2**62), "more than 100,000 bytes"),
        (pax(size=2**40) + FILE, "more than 100,000 bytes"),
        (header("n", tarfile.GNUTYPE_LONGNAME, 2**33) + FILE, "broken or incomplete"),
        (header("n", tarfile.GNUTYPE_LONGNAME, 9000, b"n" * 9000) + FILE, "header of more than"),
        (header("n", tarfile.GNUTYPE_LONGNAME, -512) + FILE, "negative size"),
        (header("x", tarfile.XHDTYPE, 9000, b"1" * 9000) + FILE, "header of more than"),
        (pax(path="deep") * 100 + FILE, "header of more than"),
        (header("s", tarfile.GNUTYPE_SPARSE, 0), "is sparse"),
        (pax(GNU__sparse__map="0,5") + FILE, "is sparse"),
        (
            pax(GNU__sparse__major=1, GNU__sparse__minor=0)
            + header("s", tarfile.REGTYPE, 20_000, b"9999\n" + b"1\n" * 9_000),
            "header of more than",
        ),
        (pax(GNU__sparse__map="0,x") + FILE, "broken header"),
        (b"noise" * 102 + b"!!" + FILE, "broken header"),
        (header("g", tarfile.REGTYPE, 50_000), "unexpected end of data"),
        (header("a\nb", tarfile.REGTYPE, 0), "has a name that"),
        (pax(path="n" * 300) + FILE, "has a name that"),
        (pax(path="d/" * 20 + "f") + FILE, "has a name that"),
        (FILE, "member 'f' replaces another"),
        (header("F", tarfile.REGTYPE, 0), "member 'F' replaces another"),
        (header("f/g", tarfile.REGTYPE, 0), "member 'f/g' replaces another"),
        (header("f", tarfile.DIRTYPE, 0), "member 'f' replaces another"),
        (pax(path="d/e") + FILE + header("d", tarfile.REGTYPE, 0), "cannot write member 'd'"),
    ],
)  # fmt: skip
def test_hostile_headers_are_refused(tmp_path, hostile, reason):
    for name, data in (("a.tar", FILE + hostile + END), ("a.tar.gz", FILE + hostile + END)):
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        with pytest.raises(InputError, match=rf"^{name}: .*{reason}") as caught:
            unpack(tmp_path / name, tmp_path / f"out {name}")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("time", ["nan", "1e300", "-1e20"])
def test_times_that_no_file_can_have_are_passed_over(tmp_path, time):
    (tmp_path / "a.tar").write_bytes(pax(mtime=time) + FILE + END)
    assert unpack(tmp_path / "a.tar", tmp_path / "out") == 1


def test_a_bomb_behind_the_end_is_not_unpacked(tmp_path):
    bomb = gzip.compress(FILE + END) + gzip.compress(bytes(1 << 24)) * 1000  # 16 GiB
    (tmp_path / "a.tar.gz").write_bytes(bomb)
    with pytest.raises(InputError, match=r"a\.tar\.gz: more than 100,000 bytes"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_damage_behind_the_end_shows(tmp_path):
    data = bytearray(gzip.compress(FILE + END))
    data[-6] ^= 1  # of the checksum
    (tmp_path / "a.tar.gz").write_bytes(data)
    with pytest.raises(InputError, match=r"broken or incomplete archive \(CRC check failed"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


@pytest.mark.parametrize("mode", ["w:bz2", "w:xz"])
def test_other_compressions_are_refused(tmp_path, mode):
    path = archive(tmp_path, plain("x"), mode=mode)
    with pytest.raises(InputError, match="broken or incomplete archive"):
        unpack(path, tmp_path / "out")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(InputError, match=r"a\.tar: no such file"):
        unpack(tmp_path / "a.tar", tmp_path / "out")
