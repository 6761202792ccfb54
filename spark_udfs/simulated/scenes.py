"""The scenes of the simulated shop: the tables that each needs beside the order lines."""

from __future__ import annotations

from spark_udfs.simulated import ad_days
from spark_udfs.simulated.ads import AUCTIONS, CAMPAIGNS
from spark_udfs.simulated.brands import BRAND_TRIPLES, ITEM_BRANDS
from spark_udfs.simulated.catalogue import ITEMS, PICTURES
from spark_udfs.simulated.demand import PRODUCT_DAYS
from spark_udfs.simulated.fraud import PAYMENTS, REGISTRATIONS
from spark_udfs.simulated.impressions import IMPRESSIONS
from spark_udfs.simulated.messages import MESSAGES
from spark_udfs.simulated.planted import Planted
from spark_udfs.simulated.reviews import REVIEWS
from spark_udfs.simulated.stock import PRODUCT_ARRIVALS, PRODUCT_STOCK
from spark_udfs.simulated.texts import TEXTS
from spark_udfs.simulated.visits import STEPS

SCENES: dict[str, tuple[Planted, ...]] = {
    "fraud": (REGISTRATIONS, PAYMENTS),
    "demand": (PRODUCT_DAYS, PRODUCT_STOCK, PRODUCT_ARRIVALS),
    "impressions": (IMPRESSIONS,),
    "reviews": (REVIEWS,),
    "messages": (MESSAGES,),
    "items": (ITEMS,),
    "pictures": (PICTURES,),
    "graph": (ITEM_BRANDS, BRAND_TRIPLES),
    "ads": (CAMPAIGNS, AUCTIONS),
    "pacing": (ad_days.BUDGETS, ad_days.OPPORTUNITIES),
    "visits": (STEPS,),
    "texts": (TEXTS,),
}
