"""What the simulated shop says of its items: attributes, a text and a picture, each telling of the taste in its way.

The category is the taste's, but wrong for WRONG_CATEGORY of the items. A description holds STYLE words, each from the
taste's own vocabulary with OWN_WORD, else any: how likely each taste is given the words is known (`taste_posterior`).
A picture shows the shape of the taste in the item's colour, in one of many places, sizes and turns, under noise; the
shape that the shop says it is is wrong for WRONG_SHAPE of them.
"""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from spark_udfs.png import png
from spark_udfs.simulated import tastes
from spark_udfs.simulated.draws import normal
from spark_udfs.simulated.planted import Field, Planted, Rows, words
from spark_udfs.simulated.shop import ADJECTIVES, NOUNS
from spark_udfs.simulated.tastes import Floats, Ints, Mask, ShopSize, uniform

WRONG_CATEGORY, WRONG_SHAPE = 0.1, 0.05
STYLE, OWN_WORD, VOCABULARY = 4, 0.6, 6  # words of a description, share of the taste's own, and how many it has
MATERIALS = ("cotton", "glass", "iron", "linen", "oak", "paper", "porcelain", "wool")
COLOURS = {
    "red": (200, 50, 45),
    "orange": (225, 135, 40),
    "yellow": (225, 205, 60),
    "green": (60, 150, 75),
    "blue": (55, 95, 190),
    "violet": (130, 75, 170),
    "brown": (120, 80, 50),
    "grey": (125, 125, 130),
}
WORDS = (
    "airy", "alpine", "ancient", "autumn", "bold", "bright", "brisk", "calm", "candid", "classic", "coastal", "cosy",
    "crisp", "delicate", "dreamy", "earthy", "elegant", "festive", "floral", "fresh", "gentle", "glossy", "graceful",
    "gracious", "honest", "humble", "jolly", "joyful", "lively", "lush", "matte", "mellow", "merry", "minimal",
    "modern", "mossy", "nautical", "neat", "nordic", "playful", "plain", "polished", "pure", "quaint", "quiet",
    "rare", "retro", "rustic", "serene", "sleek", "smooth", "soft", "solemn", "sturdy", "sunny", "tender", "tidy",
    "urban", "vivid", "warm",
)  # fmt: skip
SHAPES = ("disc", "ring", "square", "cross", "triangle", "stripes")
SIDE = 32  # pixels
NOISE = 0.12  # standard deviation of a pixel, of full brightness
PICTURES_AT_ONCE = 2_000


def items_of(items: Ints, shop: ShopSize) -> Rows:
    """The attributes and texts of some items."""
    taste, rank = tastes.taste_of_item(items, shop), items // shop.tastes
    category, said = _category(items, shop), style_words(items, shop)
    parts = [words(WORDS, said[:, place]) for place in range(STYLE)]
    material = (uniform(shop, "material", items) * len(MATERIALS)).astype(np.int64)
    colour, nouns = _colour(items, shop), words(NOUNS, taste % len(NOUNS))
    number = pa.array(rank + 1).cast(pa.string())
    of = words(MATERIALS, material)
    told = ("Of ", of, ", ", parts[0], " and ", parts[1], ", for ", parts[2], ", ", parts[3], " homes.")
    description = pc.binary_join_element_wise(*told, "")
    arrived = tastes.arrived_day(items, shop)
    earlier = -1 - uniform(shop, "earlier item", items) * 1_000
    return {
        "item_id": tastes.shown_number(items, shop),
        "name": pc.binary_join_element_wise(words(ADJECTIVES, rank % len(ADJECTIVES)), nouns, "no.", number, " "),
        "category": category,
        "brand": (uniform(shop, "brand", items) ** 2 * max(4, shop.items // 20)).astype(np.int64),
        "colour": words(tuple(COLOURS), colour),
        "material": words(MATERIALS, material),
        "price": tastes.price(items, shop),
        "on_sale_from": tastes.start_s(shop) // 86_400 + np.floor(np.where(arrived < 0, earlier, np.ceil(arrived))),
        "description": description,
        "taste": taste,
        "category_is_right": category == taste,
    }


def style_words(items: Ints, shop: ShopSize) -> Ints:
    """The numbers of the STYLE words in items' descriptions, as (items, STYLE)."""
    place = np.arange(STYLE)[None]
    ids = (items[:, None], place)
    first = _first_word(tastes.taste_of_item(items, shop), shop)[:, None]
    own = (first + _nth(uniform(shop, "own word", *ids))) % len(WORDS)
    any_word = (uniform(shop, "any word", *ids) * len(WORDS)).astype(np.int64)
    return np.where(uniform(shop, "is own word", *ids) < OWN_WORD, own, any_word)


def taste_posterior(items: Ints, shop: ShopSize) -> Floats:
    """The probability of each taste given an item's description, as (items, tastes); all are as likely beforehand."""
    first = _first_word(np.arange(shop.tastes), shop)
    is_own = np.zeros((shop.tastes, len(WORDS)), bool)
    for taste, start in enumerate(first):
        is_own[taste, (start + _nth((np.arange(VOCABULARY) + 0.5) / VOCABULARY)) % len(WORDS)] = True
    log = np.log(OWN_WORD * is_own / VOCABULARY + (1 - OWN_WORD) / len(WORDS))
    likelihood = np.exp(log[:, style_words(items, shop)].sum(axis=2)).T
    return np.asarray(likelihood / likelihood.sum(axis=1, keepdims=True))


def pictures_of(items: Ints, shop: ShopSize) -> Rows:
    """The pictures of some items."""
    shape, wrong = tastes.taste_of_item(items, shop) % len(SHAPES), uniform(shop, "wrong shape", items) < WRONG_SHAPE
    other = (shape + 1 + (uniform(shop, "other shape", items) * (len(SHAPES) - 1)).astype(np.int64)) % len(SHAPES)
    pictures = []
    for first in range(0, len(items), PICTURES_AT_ONCE):
        some = slice(first, first + PICTURES_AT_ONCE)
        pictures += [png(pixels) for pixels in rendered(items[some], shape[some], shop)]
    return {
        "item_id": tastes.shown_number(items, shop),
        "picture": pa.array(pictures, pa.binary()),
        "shape": words(SHAPES, np.where(wrong, other, shape)),
        "true_shape": words(SHAPES, shape),
    }


def rendered(items: Ints, shape: Ints, shop: ShopSize) -> NDArray[np.uint8]:
    """Pixels as (items, SIDE, SIDE, red green blue): a shape in the item's colour on light ground."""
    across = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    here = [uniform(shop, f"picture {name}", items)[:, None, None] for name in ("x", "y", "size", "turn")]
    x, y = across[None, None, :] - 0.4 * (here[0] - 0.5), across[None, :, None] - 0.4 * (here[1] - 0.5)
    turn, size = 2 * math.pi * here[3], 0.45 + 0.35 * here[2]
    u, v = (x * np.cos(turn) + y * np.sin(turn)) / size, (y * np.cos(turn) - x * np.sin(turn)) / size
    inside = np.zeros(u.shape, bool)
    for number, drawn in enumerate(_shapes(u, v)):
        inside |= drawn & (shape == number)[:, None, None]
    colour = np.asarray([*COLOURS.values()], np.float64)[_colour(items, shop)][:, None, None, :]
    light = np.where(inside[..., None], colour / 255, 0.93)
    pixel = np.arange(SIDE * SIDE).reshape(1, SIDE, SIDE)
    light = light + NOISE * normal(shop, "pixel", items[:, None, None], pixel)[..., None]
    return np.asarray(np.clip(light * 255, 0, 255), np.uint8)


def _shapes(u: Floats, v: Floats) -> tuple[Mask, ...]:
    """Which points lie in each of SHAPES, in its own coordinates: about 1 from the middle to the edge."""
    radius, far = np.hypot(u, v), np.maximum(abs(u), abs(v))
    return (
        radius < 1,
        (radius < 1) & (radius > 0.6),
        far < 0.85,
        (far < 1) & (np.minimum(abs(u), abs(v)) < 0.3),
        (v > -0.6) & (v < 1 - 1.8 * abs(u)),
        (far < 1) & (np.floor((v + 1) * 2.5) % 2 == 0),
    )


def _category(items: Ints, shop: ShopSize) -> Ints:
    """The number of an item's category: its taste, or any other."""
    taste = tastes.taste_of_item(items, shop)
    other = (taste + 1 + (uniform(shop, "other category", items) * (shop.tastes - 1)).astype(np.int64)) % shop.tastes
    return np.where(uniform(shop, "wrong category", items) < WRONG_CATEGORY, other, taste)


def _colour(items: Ints, shop: ShopSize) -> Ints:
    return (uniform(shop, "colour", items) * len(COLOURS)).astype(np.int64)


def _first_word(taste: Ints, shop: ShopSize) -> Ints:
    return (uniform(shop, "vocabulary", taste) * len(WORDS)).astype(np.int64)


def _nth(drawn: Floats) -> Ints:
    """How far a taste's own word stands from its first: every seventh word is its own."""
    return (drawn * VOCABULARY).astype(np.int64) * 7


_ITEM = Field("item_id", "string", "the item", "P%08d")

ITEMS = Planted(
    name="item_texts",
    meaning="an item of the catalogue",
    fields=(
        _ITEM,
        Field("name", "string", "as in `order_lines`; its noun tells the taste, where there are 13 at most"),
        Field("category", "string", "the taste's; wrong for one in ten", "category %04d"),
        Field("brand", "string", "tells nothing of the taste; few have many items", "brand %04d"),
        Field("colour", "string", "the picture's"),
        Field("material", "string", "what it is made of"),
        Field("price", "double", "of a piece"),
        Field("on_sale_from", "date", "the first whole day; a shop's first items were there before it opened"),
        Field("description", "string", "a sentence with four words of style"),
    ),
    truth=(
        Field("taste", "bigint", "the item's taste"),
        Field("category_is_right", "boolean", "the category is the taste's"),
    ),
    units=lambda shop: shop.items,
    rows_per_unit=lambda _: 1.0,
    make=items_of,
)
PICTURES = Planted(
    name="item_pictures",
    meaning="an item's picture",
    fields=(
        _ITEM,
        Field("picture", "binary", "PNG, 32 x 32, red, green and blue"),
        Field("shape", "string", "the label: what the shop says is shown; wrong for one in twenty"),
    ),
    truth=(Field("true_shape", "string", "what is shown: the taste's shape"),),
    units=lambda shop: shop.items,
    rows_per_unit=lambda _: 1.0,
    make=pictures_of,
)
