"""Files of pictures (PNG, JPEG and the like) as pixels of one size, by Pillow. An extra: `millrace[images]`.

What becomes of a picture: its first frame, turned as its camera says; what is transparent lies on white; it is scaled
to fit the square, and what is left beside it has the colour of its corner. Grey and colour are made of each other.
"""

from __future__ import annotations

import importlib.util
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from pyspark.sql import functions as F

if TYPE_CHECKING:
    from pyspark.sql import Column

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")
MOST_PIXELS = 50_000_000  # a picture of more takes too much of a worker's memory: a bomb, or a mistake
BROKEN, NOTHING, LARGE = "cannot be read", "has no pixels", f"has more than {MOST_PIXELS:,} pixels"
SMALL = 8  # pixels of the side to which pictures are made that are only looked at
MODES = {1: "L", 3: "RGB"}


def missing() -> str | None:
    """Why no picture can be read here; None: they can."""
    if importlib.util.find_spec("PIL") is None:
        return "Pillow is not installed; pip install 'millrace[images]'"
    return None


def fault(file: bytes) -> str | None:
    """What is wrong with a picture's file, of few words; None: nothing."""
    found = _read(file, SMALL, 3)
    return found if isinstance(found, str) else None


def pixels(file: bytes, side: int, channels: int) -> bytes | None:
    """side x side x channels bytes, row by row; None where the file has a fault."""
    found = _read(file, side, channels)
    return None if isinstance(found, str) else found.tobytes()


def faults(file: Column) -> Column:
    """What is wrong with each picture's file; null: nothing."""
    # Not by Arrow, whose batches are of so many rows, whatever they weigh.
    return F.udf(lambda held: None if held is None else fault(bytes(held)), "string", useArrow=False)(file)


def pixels_of(file: Column, side: int, channels: int) -> Column:
    """The pixels of each picture's file; null where it has a fault."""
    made = F.udf(lambda held: pixels(bytes(held), side, channels), "binary", useArrow=False)
    return made(file)


def _read(file: bytes, side: int, channels: int) -> Any:
    """(side, side, channels) bytes, or what is wrong."""
    from PIL import Image, ImageOps

    Image.MAX_IMAGE_PIXELS = None  # ours is the limit, and it is known before a pixel is read
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            if not image.width * image.height:
                return NOTHING
            if image.width * image.height > MOST_PIXELS:
                return LARGE
            image.draft(None, (side, side))
            turned: Any = _plain(ImageOps.exif_transpose(image)).convert(MODES[channels])
        corner = turned.getpixel((0, 0))
        square = ImageOps.pad(turned, (side, side), method=Image.Resampling.BOX, color=corner)
        return np.asarray(square, np.uint8).reshape(side, side, channels)
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError, MemoryError, IndexError, KeyError, TypeError):
        return BROKEN  # what Pillow raises of files that are no pictures, or only the beginning of one


def _plain(image: Any) -> Any:
    """A picture in grey or colour with eight bits a channel, nothing of it transparent."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits; Pillow would clip them
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image.convert("RGB") if image.mode not in ("L", "RGB") else image
