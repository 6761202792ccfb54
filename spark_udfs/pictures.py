"""Files of pictures (PNG, JPEG and the like) as pixels of one size, by Pillow. An extra: `millrace[images]`.

What becomes of a picture: its first frame, turned as its camera says; what is transparent lies on white; it is scaled
to fit the square, and what is left beside it has the colour of its corner. Grey and colour are made of each other.

A picture is unpacked once, whole; all else is done to strips of it, which are shrunk before they are put together.
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
MOST_BYTES = 20_000_000  # of a file: Spark sends Python 100 at a time, of 2 GB together at most
BROKEN, NOTHING, LARGE = "cannot be read", "has no pixels", f"has more than {MOST_PIXELS:,} pixels"
HEAVY, DEEP = f"has more than {MOST_BYTES // 1_000_000} MB", "has 32 bits a channel"
SMALL = 8  # pixels of the side to which pictures are made that are only looked at
STRIP = 1_000_000  # pixels that are worked on at once
MODES = {1: "L", 3: "RGB"}
TILE_SIDES = (322, 323)  # tags of TIFF: a tile may be larger than its picture, and is unpacked whole
CAMERA = 0x0112  # tag of EXIF: how the camera was held
TURNS = {  # by its values: what puts the picture upright
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


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
    told = F.udf(lambda held: None if held is None else fault(bytes(held)), "string", useArrow=False)
    is_heavy = F.length(file) > MOST_BYTES
    return F.when(is_heavy, F.lit(HEAVY)).otherwise(told(F.when(~is_heavy, file)))


def pixels_of(file: Column, side: int, channels: int) -> Column:
    """The pixels of each picture's file; null where it has a fault."""
    made = F.udf(lambda held: pixels(bytes(held), side, channels), "binary", useArrow=False)
    return made(file)


def _read(file: bytes, side: int, channels: int) -> Any:
    """(side, side, channels) bytes, or what is wrong."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # ours is the limit, and it is known before a pixel is read
    if len(file) > MOST_BYTES:
        return HEAVY
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as image:
            if not image.width * image.height:
                return NOTHING
            if max(image.width * image.height, _of_a_tile(image)) > MOST_PIXELS:
                return LARGE
            if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):  # which of its numbers is white?
                return DEEP
            image.draft(None, (side, side))
            image.load()
            small = _upright(_shrunk(image, 2 * side), image)
        return np.asarray(_fitted(small.convert(MODES[channels]), side), np.uint8).reshape(side, side, channels)
    except Exception:  # whatever Pillow raises of a file, and that is of any kind, it cannot read it
        return BROKEN


def _of_a_tile(image: Any) -> int:
    """Pixels of each of a TIFF file's tiles; 0: it has none."""
    wide, high = (getattr(image, "tag_v2", {}).get(tag, 0) for tag in TILE_SIDES)
    return int(wide) * int(high)


def _shrunk(image: Any, least: int) -> Any:
    """A picture in grey or colour, nothing of it transparent, whose longer side has `least` pixels or a few more."""
    from PIL import Image

    factor = max(image.size) // least
    if factor < 2:
        return _plain(image)
    high = factor * max(1, STRIP // (factor * image.width))
    strips = [
        _plain(image.crop((0, top, image.width, min(top + high, image.height)))).reduce(factor)
        for top in range(0, image.height, high)
    ]
    whole = Image.new(strips[0].mode, (strips[0].width, sum(strip.height for strip in strips)))
    for number, strip in enumerate(strips):
        whole.paste(strip, (0, number * strips[0].height))
    return whole


def _plain(image: Any) -> Any:
    """A picture in grey or colour with eight bits a channel, nothing of it transparent."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 bits; Pillow would clip them
        held = np.asarray(image).astype(np.int64)
        white = np.where(held == image.info.get("transparency", -1), 255, (held >> 8).clip(0, 255))
        return Image.fromarray(white.astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image.convert("RGB") if image.mode not in ("L", "RGB") else image


def _upright(small: Any, image: Any) -> Any:
    """A picture turned as the file's note on the camera says; one that cannot be read says nothing."""
    from PIL import Image

    try:
        turn = TURNS.get(image.getexif().get(CAMERA))
    except Exception:  # as above
        turn = None
    return small if turn is None else small.transpose(Image.Transpose[turn])


def _fitted(image: Any, side: int) -> Any:
    """A picture scaled to fit a square, in the middle of it; the rest has the colour of its corner."""
    from PIL import Image

    longer = max(image.size)
    wide, high = (max(1, round(length / longer * side)) for length in image.size)
    square = Image.new(image.mode, (side, side), image.getpixel((0, 0)))
    scaled = image.resize((wide, high), Image.Resampling.BOX)
    square.paste(scaled, (round((side - wide) * 0.5), round((side - high) * 0.5)))
    return square
