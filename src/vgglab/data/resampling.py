"""The pixels of a cut: resized and cropped, as torchvision does it, into a place of a batch."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vgglab.data.cropping import Cut

# Beyond it a resized image is not made whole: the centre of an image of 8 x 20,000 pixels, whose
# shortest side becomes 256, would need 0.5 GB.
_MAX_RESIZED = 1 << 24  # pixels


def cut_out(image: Tensor, cut: Cut) -> Tensor:
    """The cut of one image, or the same of several of one size.

    Equal to `resize(..., antialias=True)` and a crop by torchvision's v2 functions. Where the
    region lies between pixels, or the whole resized image would be enormous, Pillow resizes the
    crop alone: a grey level may differ by its rounding.

    Args:
        image: (..., C, H, W) uint8.
        cut: within the image.

    Returns:
        (..., C, cut.crop_height, cut.crop_width) uint8.
    """
    out = image.new_empty((*image.shape[:-2], cut.crop_height, cut.crop_width))
    flat = image.reshape(-1, *image.shape[-3:])
    write_cut(flat, cut, out.view(-1, *out.shape[-3:]))
    return out


def write_cut(images: Tensor, cut: Cut, out: Tensor) -> None:
    """Like `cut_out`, into a given place.

    Args:
        images: (N, C, H, W) uint8.
        cut: within the images.
        out: (N, C, cut.crop_height, cut.crop_width) uint8 on any device, in any memory format.
    """
    starts_whole = float(cut.top).is_integer() and float(cut.left).is_integer()
    if not starts_whole or cut.resized_height * cut.resized_width > _MAX_RESIZED:
        for image, place in zip(images, out, strict=True):
            part = _resized_part(image, cut).to(out.device)
            _crop(part, min(cut.crop_top, 0), min(cut.crop_left, 0), place)
        return
    top, left = int(cut.top), int(cut.left)
    bottom, right = math.ceil(cut.top + cut.height), math.ceil(cut.left + cut.width)
    region = images[..., top:bottom, left:right]
    if region.shape[-2:] == (cut.resized_height, cut.resized_width):
        _crop(region, cut.crop_top, cut.crop_left, out)
    elif cut[4:8] == (*out.shape[-2:], 0, 0) and out.device.type == "cpu":
        _resize_on_cpu(region, cut, out)
    else:
        _crop(_resized(region, cut), cut.crop_top, cut.crop_left, out)


def _resized(region: Tensor, cut: Cut) -> Tensor:
    """Of the resized region at least what the crop takes, from the top left corner on."""
    if region.device.type == "cpu":
        rows = _reached(cut.resized_height, cut.crop_top + cut.crop_height, region.shape[-2])
        columns = _reached(cut.resized_width, cut.crop_left + cut.crop_width, region.shape[-1])
        shape = (len(region), rows, columns, region.shape[1])
        out = torch.empty(shape, dtype=torch.uint8).permute(0, 3, 1, 2)
        _resize_on_cpu(region, cut, out)
        return out
    floats = torch.nn.functional.interpolate(
        region.float(),
        (cut.resized_height, cut.resized_width),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    return floats.round_().to(torch.uint8)


def _reached(resized: int, end: int, stored: int) -> int:
    # An axis that is as long as before torch takes as it is, whatever its scale.
    return min(resized, end + 1 if end == stored else end)


def _resize_on_cpu(region: Tensor, cut: Cut, out: Tensor) -> None:
    """Of the resized region as much as `out` takes, from the top left corner on."""
    # torch's loops are twice as fast where the colours of a pixel lie together. The operator is
    # what `interpolate` calls, which has no `out` (a copy more, a tenth of the time) and would make
    # all of it.
    pixels = region.contiguous(memory_format=torch.channels_last)
    scales = cut.resized_height / cut.height, cut.resized_width / cut.width
    torch.ops.aten._upsample_bilinear2d_aa.out(pixels, out.shape[-2:], False, *scales, out=out)


def _resized_part(image: Tensor, cut: Cut) -> Tensor:
    """Of the resized region, what the crop covers: (C, H, W) uint8 by Pillow, made alone."""
    top, rows, first_row, last_row = _along(
        cut.top, cut.height, cut.resized_height, cut.crop_top, cut.crop_height
    )
    left, columns, first_column, last_column = _along(
        cut.left, cut.width, cut.resized_width, cut.crop_left, cut.crop_width
    )
    # Pixels that the region touches: what lies farther out must not be averaged in.
    bottom, right = math.ceil(cut.top + cut.height), math.ceil(cut.left + cut.width)
    pixels = image[:, top:bottom, left:right].permute(1, 2, 0).cpu().numpy()
    source = Image.fromarray(np.ascontiguousarray(pixels.squeeze(2) if len(image) == 1 else pixels))
    box = (first_column, first_row, last_column, last_row)
    part = source.resize((columns, rows), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(part)).view(rows, columns, -1).permute(2, 0, 1)


def _along(
    start: float, length: float, resized: int, crop_start: int, crop: int
) -> tuple[int, int, float, float]:
    """One axis: the first pixel touched, how many resized ones are made, from where to where.

    The last two count from the first pixel touched.
    """
    first, last = max(crop_start, 0), min(max(crop_start, 0) + crop, resized)
    touched, scale = math.floor(start), length / resized
    inside = start - touched
    return touched, last - first, inside + first * scale, inside + last * scale


def _crop(images: Tensor, top: int, left: int, out: Tensor) -> None:
    """Copy from (top, left) on; black where the images do not reach."""
    height, width = out.shape[-2:]
    part = images[..., max(top, 0) : max(top, 0) + height, max(left, 0) : max(left, 0) + width]
    if part.shape != out.shape:
        out.zero_()
        rows, columns = part.shape[-2:]
        out = out[..., max(-top, 0) :, max(-left, 0) :][..., :rows, :columns]
    out.copy_(part)
