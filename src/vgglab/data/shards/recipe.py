"""What is stored of an image in shards: its file as it is, or a smaller JPEG."""

from dataclasses import dataclass
from typing import Any

from torchvision.io import encode_jpeg, encode_png
from torchvision.transforms.v2.functional import resize

from vgglab.data.decoding import decode_bytes
from vgglab.data.images import EncodedImages, ImageSet


def file_content(images: ImageSet, index: int) -> bytes:
    """An image of any set as an image file: the one that it has, or else a PNG.

    Raises:
        InputError: it cannot be read; the message names the image.
    """
    if isinstance(images, EncodedImages):
        return images.read(index)
    return encode_png(images.image(index).contiguous()).numpy().tobytes()


@dataclass(frozen=True)
class Recipe:
    """How image files become those of a shard.

    Args:
        shortest_side: pixels. Larger images are resized to it and stored as JPEG. The others stay
            the files that they are: to enlarge them would add bytes and no detail. None: all stay.
        quality: of the JPEGs, 1 to 100.
    """

    shortest_side: int | None
    quality: int

    def stored(self, data: bytes, name: str) -> bytes:
        """What to store of an image file; the same object if that is the file as it is.

        Each image is decoded, also where it stays: what is broken shows now, not days later.

        Args:
            data: the content of the file.
            name: for messages.

        Raises:
            InputError: it is no image, or a broken one.
        """
        image = decode_bytes(data, name)
        if self.shortest_side is None or min(image.shape[-2:]) <= self.shortest_side:
            return data
        small = resize(image, [self.shortest_side], antialias=True)
        # libjpeg's own chroma, 4:2:0. As 4:4:4, which most of ImageNet's files are, it would be
        # nearer (a mean difference of 2.1 grey levels, not 2.5), a quarter larger and a third
        # slower to decode. Tables made for each image save 3 % and take twice the time.
        return encode_jpeg(small, self.quality).numpy().tobytes()

    def described(self) -> dict[str, Any]:
        """As it stands in `vgglab.json`."""
        if self.shortest_side is None:
            return {"shortest_side": None, "quality": None, "resampling": None, "chroma": None}
        return {
            "shortest_side": self.shortest_side,
            "quality": self.quality,
            "resampling": "bilinear, antialiased",
            "chroma": "4:2:0",
        }
