"""JPEG by simplejpeg (libjpeg-turbo, the extra `turbo`), which can decode at a reduced size."""

import torch
from torch import Tensor


def decode_reduced(data: bytes, size: tuple[int, int], factor: int) -> Tensor | None:
    """A grey or colour JPEG at a fraction of its size, as stored (EXIF is not looked at).

    The average of `factor` x `factor` pixels, made from the JPEG's frequencies: of a side that
    cannot be divided the last pixel stands for fewer.

    Args:
        data: of a JPEG.
        size: its height and width in pixels.
        factor: 1, 2, 4 or 8. What lies between, such as 6/8, is slower than the full size.

    Returns:
        (3, ceil(height / factor), ceil(width / factor)) uint8, or None if it is damaged.
    """
    import simplejpeg

    height, width = (-(-side // factor) for side in size)
    try:
        pixels = simplejpeg.decode_jpeg(data, min_height=height, min_width=width)
    except ValueError:
        return None
    return torch.from_numpy(pixels).permute(2, 0, 1)
