import contextlib
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from vgglab.data.decoding import MAX_PIXELS, decode, image_size
from vgglab.errors import InputError

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


def test_32_bit_pixels_are_refused(tmp_path):
    Image.fromarray(PIXELS[:, :, 0].astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match=r"f\.tif: 32-bit pixels"):
        decode(tmp_path / "f.tif")


@pytest.mark.parametrize("name", ["e.jpg", "e.tif"])
def test_exif_turns_the_image_upright(tmp_path, name):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned by 90 degrees
    image = decode(saved(tmp_path, name, exif=exif))
    assert image.shape == (3, 30, 20)
    assert close(image, np.rot90(PIXELS, -1).copy(), 3)


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
        with pytest.raises(InputError) as caught:
            decode(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
    for name in ("empty.jpg", "text.jpg", "missing.jpg"):
        with pytest.raises(InputError, match=name):
            image_size(tmp_path / name)


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
                with contextlib.suppress(InputError):
                    read(tmp_path / name)


def huge_png(side):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b""))


def test_a_bomb_is_refused_by_its_header(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    (tmp_path / "bomb.png").write_bytes(huge_png(side))
    with pytest.raises(InputError, match=r"bomb\.png: .*exceeds limit of 178956970 pixels"):
        decode(tmp_path / "bomb.png")
    jpeg = bytearray(saved(tmp_path, "bomb.jpg").read_bytes())
    at = jpeg.index(b"\xff\xc0")
    jpeg[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    (tmp_path / "bomb.jpg").write_bytes(jpeg)
    with pytest.raises(InputError, match="60,000 x 60,000 pixels are more"):
        decode(tmp_path / "bomb.jpg")
