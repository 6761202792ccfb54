"""Brands of items and what is known of them: a graph in which the taste lies at the second step.

An item is of a brand, of which there are about half as many as items, each of one taste; a brand belongs to one of a
few makers of its taste, but for WRONG_MAKER of them. So what a brand's name tells is learnt from two items or so, if
any of them was sold; what its maker tells is learnt from all of the maker's. Countries tell nothing.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spark_udfs.simulated import tastes
from spark_udfs.simulated.planted import Field, Planted, Rows, words
from spark_udfs.simulated.tastes import Ints, ShopSize, uniform

ITEMS_OF_BRAND = 2  # mean
MAKERS = 3  # of a taste
WRONG_MAKER = 0.1  # of brands that belong to a maker of another taste
COUNTRIES = ("Chile", "Denmark", "France", "Ghana", "India", "Italy", "Japan", "Kenya", "Peru", "Spain")
RELATIONS = ("made by", "from")


def items_of(items: Ints, shop: ShopSize) -> Rows:
    """The brands of some items."""
    taste = tastes.taste_of_item(items, shop)
    nth = (uniform(shop, "graph brand", items) * _brands_of_taste(shop)).astype(np.int64)
    return {"item_id": tastes.shown_number(items, shop), "brand": nth * shop.tastes + taste, "taste": taste}


def triples_of(brands: Ints, shop: ShopSize) -> Rows:
    """What is known of some brands: a maker and a country each."""
    taste = brands % shop.tastes
    is_right = uniform(shop, "wrong maker", brands) >= WRONG_MAKER
    other = (taste + 1 + (uniform(shop, "other maker", brands) * (shop.tastes - 1)).astype(np.int64)) % shop.tastes
    nth = (uniform(shop, "maker", brands) * MAKERS).astype(np.int64)
    maker = nth * shop.tastes + np.where(is_right, taste, other)
    country = words(COUNTRIES, (uniform(shop, "brand country", brands) * len(COUNTRIES)).astype(np.int64))
    heads = pc.binary_join_element_wise("brand", pa.array(brands).cast(pa.string()), " ")
    makers = pc.binary_join_element_wise("maker", pa.array(maker).cast(pa.string()), " ")
    count = len(brands)
    return {
        "head": pa.concat_arrays([heads, heads]),
        "relation": words(RELATIONS, np.repeat([0, 1], count)),
        "tail": pa.concat_arrays([makers, country]),
        "taste": np.tile(taste, 2),
        "maker_is_right": np.tile(is_right, 2),
    }


def _brands_of_taste(shop: ShopSize) -> int:
    return max(1, shop.items // (ITEMS_OF_BRAND * shop.tastes))


ITEM_BRANDS = Planted(
    name="item_brands",
    meaning="an item's brand",
    fields=(
        Field("item_id", "string", "the item", "P%08d"),
        Field("brand", "string", "its brand, of one taste; most have few items", "brand %d"),
    ),
    truth=(Field("taste", "bigint", "the item's taste"),),
    units=lambda shop: shop.items,
    rows_per_unit=lambda _: 1.0,
    make=items_of,
)
BRAND_TRIPLES = Planted(
    name="brand_triples",
    meaning="a triple of a brand",
    fields=(
        Field("head", "string", "the brand"),
        Field("relation", "string", "made by, or from"),
        Field("tail", "string", "a maker, most of whose brands are of one taste; or a country, which tells nothing"),
    ),
    truth=(
        Field("taste", "bigint", "the brand's taste"),
        Field("maker_is_right", "boolean", "the maker is of that taste"),
    ),
    units=lambda shop: _brands_of_taste(shop) * shop.tastes,
    rows_per_unit=lambda _: 2.0,
    make=triples_of,
)
