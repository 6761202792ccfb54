"""Descriptions in the simulated shop: what people wrote of its items, from what the shop's records say of them.

A description is one of a few openings, of the item's name, colour and material, then its size, two words of style and
what customers like. One in ten tells another colour than the record's, as people do; one in ten items has none yet.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_udfs.simulated.catalogue import COLOURS, ITEMS, WORDS, items_of, style_words
from spark_udfs.simulated.planted import Field, Planted, Rows, words
from spark_udfs.simulated.reviews import ASPECTS
from spark_udfs.simulated.tastes import Floats, Ints, ShopSize, uniform

WRONG_COLOUR, UNWRITTEN = 0.1, 0.1
OPENINGS = (
    ("The ", " is ", " and made of ", "."),
    ("Meet the ", ": ", " throughout, in solid ", "."),
    ("Our ", " comes in ", ", worked from ", "."),
)
SIZES = ("It is {} cm tall.", "At {} cm it fits any shelf.", "Height: {} cm.")
LOOKS = (("A ", " and ", " piece."), ("It looks ", " and ", "."))
LIKES = ("Customers like the {}.", "The {} is what customers praise.")


def texts_of(items: Ints, shop: ShopSize) -> Rows:
    """The records and descriptions of some items."""
    made, said = items_of(items, shop), style_words(items, shop)
    centimetres = 10 + (uniform(shop, "height", items) * 60).astype(np.int64)
    aspect = (uniform(shop, "liked", items) * len(ASPECTS)).astype(np.int64)
    others = (uniform(shop, "told colour", items) * len(COLOURS)).astype(np.int64)
    told = words(tuple(COLOURS), others)
    is_wrong = uniform(shop, "wrong colour", items) < WRONG_COLOUR
    colour = pc.if_else(pa.array(is_wrong), told, made["colour"])
    size, liked = pa.array(centimetres).cast(pa.string()), words(ASPECTS, aspect)
    sentences = [
        _one_of("opening", items, shop, [_joined(way, made["name"], colour, made["material"]) for way in OPENINGS]),
        _one_of("size", items, shop, [_joined(way.split("{}"), size) for way in SIZES]),
        _one_of("look", items, shop, [_joined(way, *(words(WORDS, said[:, n]) for n in (0, 1))) for way in LOOKS]),
        _one_of("like", items, shop, [_joined(way.split("{}"), liked) for way in LIKES]),
    ]
    description = pc.binary_join_element_wise(*sentences, " ")
    is_written = pa.array(uniform(shop, "described", items) >= UNWRITTEN)
    return {
        **{name: made[name] for name in ("item_id", "name", "category", "colour", "material")},
        "size": pc.binary_join_element_wise(size, "cm", " "),
        "reviews": pc.binary_join_element_wise("The", liked, "is lovely.", " "),
        "description": pc.if_else(is_written, description, pa.scalar(None, pa.string())),
        "colour_is_right": np.asarray(pc.equal(colour, made["colour"])),
    }


def _joined(parts: tuple[str, ...] | list[str], *between: pa.Array) -> pa.Array:
    """Texts with what stands between their parts."""
    held: list[object] = [parts[0]]
    for one, after in zip(between, parts[1:], strict=True):
        held += [one, after]
    return pc.binary_join_element_wise(*held, "")


def _one_of(what: str, items: Ints, shop: ShopSize, ways: list[pa.Array]) -> pa.Array:
    """Of each item one of some ways to say it."""
    drawn: Floats = uniform(shop, f"way of {what}", items)
    return pc.choose(pa.array((drawn * len(ways)).astype(np.int64)), *ways)


_KEPT = {field.name: field for field in ITEMS.fields}
TEXTS = Planted(
    name="product_records",
    meaning="an item's record, and what people wrote of it",
    fields=(
        *(_KEPT[name] for name in ("item_id", "name", "category", "colour", "material")),
        Field("size", "string", "its height"),
        Field("reviews", "string", "what customers say"),
        Field("description", "string", "what people wrote; null for one in ten, of which nobody wrote yet"),
    ),
    truth=(Field("colour_is_right", "boolean", "the description tells the record's colour"),),
    units=lambda shop: shop.items,
    rows_per_unit=lambda _: 1.0,
    make=texts_of,
)
