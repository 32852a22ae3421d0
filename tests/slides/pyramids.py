"""A small slide of the tests' own: a pyramidal TIFF with tissue, a pale piece, dust, a speck and a stroke of a pen."""

import numpy as np
import tifffile
from PIL import Image, ImageFilter

WIDTH, HEIGHT = 1536, 1024
TISSUE = (slice(128, 640), slice(128, 640))  # rows, columns
PALE = (slice(128, 640), slice(768, 1280))
PEN = (slice(832, 960), slice(128, 640))
DUST = (slice(768, 832), slice(896, 960))
SPECK = (slice(896, 936), slice(1200, 1240))


def pixels(seed=0):
    """uint8 [H, W, 3]."""
    random = np.random.default_rng(seed)
    slide = np.full((HEIGHT, WIDTH, 3), 243, np.uint8)
    for place, colour, deviation in ((TISSUE, (170, 90, 160), 35), (PALE, (225, 205, 222), 8)):
        height, width = (part.stop - part.start for part in place)
        noise = random.normal(0, deviation, (height, width, 1))
        slide[place] = np.clip(np.array(colour) + noise, 0, 240)
    slide[PEN], slide[DUST], slide[SPECK] = (40, 60, 170), (120, 120, 120), (170, 40, 110)
    return slide


def write_slide(path, mpp=0.5, array=None, unit="CENTIMETER", **how):
    """A pyramid of three levels, each a quarter of the one before, or of other `levels`."""
    level = pixels() if array is None else array
    path.parent.mkdir(parents=True, exist_ok=True)
    given = {"tile": (128, 128), "compression": "adobe_deflate", "photometric": "rgb", "metadata": None}
    levels = how.pop("levels", 3)
    if mpp is not None:
        given |= {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": unit}
    with tifffile.TiffWriter(path) as file:
        for number in range(levels):
            file.write(level, subfiletype=int(number > 0), **{**given, **how})
            level = np.asarray(Image.fromarray(level).reduce(4))
    return path


def blurred(array, radius):
    return np.asarray(Image.fromarray(array).filter(ImageFilter.GaussianBlur(radius)))
