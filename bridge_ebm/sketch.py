"""Drawings of a user's own: which pixels they fix in every design."""

from pathlib import Path

import numpy as np
from PIL import Image

from bridge_ebm import data, pictures
from bridge_ebm.errors import InputError
from bridge_ebm.studio import Held

_STRETCH = 0.05  # by how much the proportions of a drawing may differ from those of the model
_INKED = 0.1  # grey from which on a pixel of a drawing without transparency is held


def read_held(path: Path, height: int, width: int) -> Held:
    """The pixels that a drawing fixes: a picture file in the proportions of [height, width], within a twentieth, dark
    ink on white or transparent; at another size it is resized.

    Where parts are transparent, what is opaque is held, ink as bridge and white as empty. Otherwise the ink alone is
    held (grey beyond a tenth), the rest is free. A picture bright on black is taken as the data set has it. Raises an
    `InputError` that names --keep.
    """
    try:
        image = pictures.open_image(path)
        image = image.convert("RGBA" if image.has_transparency_data or image.mode == "RGBA" else "L")
        wide, high = image.size
        if abs(wide * height - high * width) > _STRETCH * high * width:
            raise InputError(
                f"{path}: {wide} x {high} pixels are not in the proportions of the model's pictures; crop it"
            )
        if (high, wide) != (height, width):
            smooth = Image.Resampling.BOX if high > height else Image.Resampling.BICUBIC
            image = image.resize((width, height), smooth)
        opaque = np.asarray(image.getchannel("A")) > 127 if image.mode == "RGBA" else np.ones(1, bool)
        drawn = np.asarray((image.convert("RGB") if image.mode == "RGBA" else image).convert("L"))
    except (InputError, ValueError) as error:
        raise InputError(f"--keep={error}; it must be a PNG of {width} x {height} pixels, or a multiple") from None
    if opaque.all():  # many editors save an alpha channel in which nothing is clear
        grey = 255 - drawn if np.median(drawn) > 127 else drawn
        mask = grey > _INKED * 255
    else:
        mask, grey = opaque, 255 - drawn
    if not mask.any():
        raise InputError(f"--keep={path}: nothing is drawn in it; draw what must stay in black on white")
    return Held(mask[..., None], data.to_unit(grey))
