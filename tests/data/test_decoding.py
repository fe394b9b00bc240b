import contextlib
import errno
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fuzz.images import webp

from vgglab.data.decoding import MAX_PIXELS, decode, decode_bytes, image_size
from vgglab.data.headers import is_complete, jpeg_header
from vgglab.errors import BrokenImageError, InputError

# Smooth, so that lossy formats stay close.
PIXELS = np.stack(
    [np.add.outer(np.arange(20) * 4, np.arange(30) * s) for s in (1, 3, 5)], axis=-1
).astype(np.uint8)


def saved(folder, name, mode="RGB", **options):
    path = folder / name
    Image.fromarray(PIXELS).convert(mode).save(path, **options)
    return path


def close(image, pixels, tolerance):
    expected = torch.from_numpy(pixels.astype(np.int16)).permute(2, 0, 1)
    return float((image.short() - expected).abs().float().mean()) <= tolerance


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("a.png", 0),
        ("a.bmp", 0),
        ("a.tif", 0),
        ("a.ppm", 0),
        ("a.jpg", 3),
        ("a.JPEG", 3),
        ("a.webp", 4),
        ("a.gif", 20),
    ],
)
def test_every_format_becomes_rgb_bytes(tmp_path, name, tolerance):
    path = saved(tmp_path, name)
    image = decode(path)
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.uint8
    assert close(image, PIXELS, tolerance)
    assert image_size(path) == (20, 30)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("g.jpg", "L"), ("g.png", "L"), ("la.png", "LA"), ("one.png", "1"), ("g.bmp", "L")],
)
def test_grey_images_become_rgb(tmp_path, name, mode):
    image = decode(saved(tmp_path, name, mode))
    assert image.shape == (3, 20, 30)
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])


@pytest.mark.parametrize(
    ("name", "mode", "tolerance"),
    [("a.png", "RGBA", 0), ("p.png", "P", 20), ("c.jpg", "CMYK", 3), ("c.tif", "CMYK", 1)],
)
def test_alpha_palette_and_cmyk_become_rgb(tmp_path, name, mode, tolerance):
    assert close(decode(saved(tmp_path, name, mode)), PIXELS, tolerance)


def test_the_progressive_kind_has_a_readable_header(tmp_path):
    path = saved(tmp_path, "p.jpg", progressive=True, comment=b"x" * 60_000)
    assert image_size(path) == (20, 30)
    assert close(decode(path), PIXELS, 3)


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_16_bits_are_scaled_not_clipped(tmp_path, name):
    deep = (PIXELS[:, :, 0].astype(np.uint16) << 8) + 200
    Image.fromarray(deep).save(tmp_path / name)
    image = decode(tmp_path / name)
    assert image.dtype == torch.uint8
    assert torch.equal(image[0], torch.from_numpy(PIXELS[:, :, 0]))


@pytest.mark.parametrize("maxval", [1023, 4095, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_the_9_to_16_bits_of_a_pgm_are_scaled(tmp_path, maxval, plain):
    deep = (np.arange(600).reshape(20, 30) * maxval // 599).astype(">u2")
    head = b"%s 30 20 %d\n" % (b"P2" if plain else b"P5", maxval)
    data = " ".join(map(str, deep.ravel())).encode() if plain else deep.tobytes()
    (tmp_path / "g.pgm").write_bytes(head + data)
    image = decode(tmp_path / "g.pgm")
    expected = deep / maxval * 255
    assert np.abs(image.numpy() - expected).max() <= 1
    assert image.min() == 0
    assert image.max() == 255


def test_32_bit_pixels_are_refused(tmp_path):
    Image.fromarray(PIXELS[:, :, 0].astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match=r"f\.tif: 32-bit pixels"):
        decode(tmp_path / "f.tif")


@pytest.mark.parametrize("name", ["e.jpg", "e.tif", "e.png", "e.webp"])
def test_exif_turns_the_image_upright(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    image = decode(saved(tmp_path, name, exif=exif))
    assert image.shape == (3, 30, 20)
    assert close(image, np.rot90(PIXELS, -1).copy(), 3)


@pytest.mark.parametrize("order", [b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_header_tells_size_and_orientation(tmp_path, order, orientation):
    kind = "<" if order.startswith(b"II") else ">"
    entries = struct.pack(f"{kind}HHHIHHHHIHH", 2, 0x0100, 3, 1, 7, 0, 0x0112, 3, 1, orientation, 0)
    exif = b"Exif\0\0" + order + entries + bytes(4)
    data = saved(tmp_path, "a.jpg", exif=exif).read_bytes()
    image = decode_bytes(data, "a")
    assert image.shape[1:] == ((20, 30) if orientation < 5 else (30, 20))
    header = jpeg_header(data)
    assert (header.size, header.orientation) == ((20, 30), orientation)
    assert header.is_plain == (orientation == 1)


@pytest.mark.parametrize(
    ("mode", "components", "is_plain"), [("L", 1, True), ("RGB", 3, True), ("CMYK", 4, False)]
)
def test_the_header_tells_the_colours(tmp_path, mode, components, is_plain):
    header = jpeg_header(saved(tmp_path, "a.jpg", mode).read_bytes())
    assert (header.components, header.is_plain) == (components, is_plain)


@pytest.mark.parametrize("exif", [b"", b"II", b"XX*\0", b"II*\0\xff\xff\0\0", b"MM\0*" + bytes(4)])
def test_an_exif_entry_that_makes_no_sense_is_nobodys_to_trust(tmp_path, exif):
    """Decoders may differ: such a JPEG goes the usual way."""
    data = saved(tmp_path, "a.jpg", exif=b"Exif\0\0" + exif).read_bytes()
    assert not jpeg_header(data).is_plain
    assert decode_bytes(data, "a").shape == (3, 20, 30)


def test_the_end_of_a_preview_is_not_the_images(tmp_path):
    preview = saved(tmp_path, "p.jpg").read_bytes()
    data = saved(tmp_path, "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + bytes(6) + preview)
    data = data.read_bytes()
    assert is_complete(data)
    assert is_complete(data + b"film")
    assert not is_complete(data[:-9])


def test_the_first_frame_of_an_animation(tmp_path):
    frame = Image.fromarray(PIXELS)
    frame.save(tmp_path / "a.gif", save_all=True, append_images=[frame.rotate(180)])
    assert close(decode(tmp_path / "a.gif"), PIXELS, 20)


def test_the_content_counts_not_the_name(tmp_path):
    path = saved(tmp_path, "a.png").rename(tmp_path / "a.jpg")
    assert close(decode(path), PIXELS, 0)


def test_broken_files_are_one_line_that_names_them(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "folder.jpg").mkdir()
    for name in ("cut.jpg", "cut.png", "cut.webp", "cut.bmp", "cut.tif", "cut.gif"):
        data = saved(tmp_path, name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
    (tmp_path / "head.jpg").write_bytes(saved(tmp_path, "a.jpg").read_bytes()[:3])
    (tmp_path / "head.png").write_bytes(saved(tmp_path, "a.png").read_bytes()[:12])
    names = sorted({path.name for path in tmp_path.iterdir()} - {"a.jpg", "a.png"})
    for name in [*names, "missing.jpg"]:
        with pytest.raises(BrokenImageError) as caught:
            decode(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
    for name in ("empty.jpg", "text.jpg", "missing.jpg"):
        with pytest.raises(InputError, match=name):
            image_size(tmp_path / name)


def test_a_folder_or_a_disk_out_of_reach_is_no_broken_image(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"gone/a\.jpg: no such file") as caught:
        decode(tmp_path / "gone" / "a.jpg")
    assert not isinstance(caught.value, BrokenImageError)

    def fail(number):
        def read(path):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("pathlib.Path.read_bytes", read)

    path = saved(tmp_path, "a.jpg")
    fail(errno.ESTALE)
    with pytest.raises(InputError, match=r"a\.jpg: Stale file handle$") as caught:
        decode(path)
    assert not isinstance(caught.value, BrokenImageError)
    fail(errno.EACCES)
    with pytest.raises(BrokenImageError, match=r"a\.jpg: unreadable image \(.*Permission denied\)"):
        decode(path)


@pytest.mark.filterwarnings("ignore")
def test_spoilt_bytes_never_escape_as_another_error(tmp_path):
    """Whatever a damaged header says, the reader gives an image or one line."""
    generator = np.random.default_rng(0)
    for name in ("a.jpg", "a.png", "a.gif", "a.bmp", "a.tif", "a.webp"):
        whole = saved(tmp_path, name).read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            for at in generator.integers(0, min(len(data), 200), 3):
                data[at] = generator.integers(0, 256)
            (tmp_path / name).write_bytes(data)
            for read in (decode, image_size):
                with contextlib.suppress(BrokenImageError):
                    read(tmp_path / name)


def huge_png(side):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def test_names_may_be_any_words():
    for data, reason in ((b"", "empty file"), (b"x", "not an image"), (b"\xff\xd8\xff", "broken")):
        with pytest.raises(InputError, match=f"^image 3 of s3://a: .*{reason}"):
            decode_bytes(data, "image 3 of s3://a")


def test_a_bomb_is_refused_by_its_header(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    (tmp_path / "bomb.png").write_bytes(huge_png(side))
    with pytest.raises(InputError, match=r"bomb\.png: .* pixels.*; make it smaller"):
        decode(tmp_path / "bomb.png")
    jpeg = bytearray(saved(tmp_path, "bomb.jpg").read_bytes())
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    (tmp_path / "bomb.jpg").write_bytes(jpeg)
    with pytest.raises(InputError, match=r"60,000 x 60,000 pixels; .* make it smaller"):
        decode(tmp_path / "bomb.jpg")


SIDE = 60_000
HUGE = {
    "h.gif": b"GIF89a" + struct.pack("<HHBBB", SIDE, SIDE, 0, 0, 0) + b"," + bytes(9) + b"\x02\0;",
    "h.bmp": b"BM" + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, SIDE, SIDE, 1, 24, *[0] * 6),
    "h.ppm": b"P6\n60000 60000\n255\n",
    "h.pgm": b"P5\n60000 60000\n255\n",
    "h.webp": webp([b"VP8X" + bytes(4) + (SIDE - 1).to_bytes(3, "little") * 2]),
    "h.tif": b"II*\0\x08\0\0\0\x05\0"
    + b"".join(struct.pack("<HHII", tag, 4, 1, SIDE) for tag in (256, 257))
    + b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in ((258, 8), (262, 1)))
    + struct.pack("<HHII", 273, 4, 1, 8) + bytes(4),
}  # fmt: skip


@pytest.mark.parametrize("name", HUGE)
def test_a_bomb_of_any_format_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(HUGE[name])
    for read in (decode, image_size):
        with pytest.raises(InputError, match=name) as caught:
            read(tmp_path / name)
        assert name == "h.webp" or "pixels" in str(caught.value)  # its data are missing, too


def test_a_jpeg_of_many_scans_is_refused(tmp_path):
    """Each scan costs time for all pixels, and needs only some bytes."""
    Image.new("L", (3000, 3000)).save(tmp_path / "a.jpg", progressive=True)
    data = (tmp_path / "a.jpg").read_bytes()
    assert decode(tmp_path / "a.jpg").shape == (3, 3000, 3000)
    scan = data[data.rindex(b"\xff\xda") : -2]
    (tmp_path / "a.jpg").write_bytes(data[:-2] + scan * 300 + data[-2:])
    with pytest.raises(InputError, match=r"a\.jpg: 306 scans of 3,000 x 3,000 pixels"):
        decode(tmp_path / "a.jpg")


def test_a_film_behind_a_jpeg_is_no_scan(tmp_path):
    """Motion photos end in an MP4, whose bytes may be any."""
    Image.new("L", (3000, 3000)).save(tmp_path / "a.jpg")
    film = np.random.default_rng(0).integers(0, 256, 1 << 16, np.uint8).tobytes()
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(film + b"\xff\xda" * 1000)
    assert decode(tmp_path / "a.jpg").shape == (3, 3000, 3000)


@pytest.mark.parametrize("marker", [b"\xff\x01", b"\xff\xd0", b"\xff\xd7"])
def test_a_marker_cannot_hide_the_size_of_a_jpeg(tmp_path, marker):
    """libjpeg reads on behind a marker without a length; a jump would find the small size."""
    data = saved(tmp_path, "a.jpg").read_bytes()
    at = data.index(b"\xff\xc0")
    huge = data[at : at + 5] + struct.pack(">HH", SIDE, SIDE) + data[at + 9 : at + 19]
    # As a length, the first two bytes lead to the small size.
    segment = b"\xff\xe0\xff\xff" + bytes(0xFFE0 - 4) + data[at : at + 19]
    segment += bytes(0xFFFF + 2 - len(segment))
    (tmp_path / "a.jpg").write_bytes(data[:2] + marker + segment + huge + data[2:])
    for read in (decode, image_size):
        with pytest.raises(InputError, match="60,000 x 60,000 pixels"):
            read(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(data[:2] + marker + data[2:])
    assert image_size(tmp_path / "a.jpg") == (20, 30)
    assert close(decode(tmp_path / "a.jpg"), PIXELS, 3)


def test_a_png_of_no_pixels_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(huge_png(0))
    for read in (decode, image_size):
        with pytest.raises(InputError, match=r"a\.png"):
            read(tmp_path / "a.png")


@pytest.mark.parametrize("form", ["ICO", "PCX", "SGI", "TGA", "DDS", "EPS", "PDF", "ICNS"])
def test_other_formats_are_not_tried(tmp_path, form):
    """Pillow would run programs of the system for some."""
    Image.fromarray(PIXELS).save(tmp_path / "a.png", form)
    for read in (decode, image_size):
        with pytest.raises(InputError, match=r"a\.png: not an image"):
            read(tmp_path / "a.png")


def test_what_is_no_file_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    with (tmp_path / "large.jpg").open("wb") as file:
        file.truncate((1 << 30) + 1)
    for name, reason in (("pipe", "not a file"), ("zero", "not a file"), ("large", "1 GiB")):
        for read in (decode, image_size):
            with pytest.raises(InputError, match=rf"{name}\.jpg: .*{reason}"):
                read(tmp_path / f"{name}.jpg")
