"""Attributes of items that are asked for as columns of the catalogue, and by what texts become vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.settings_lists import examples_of
from training.schema import Column, Kind

if TYPE_CHECKING:
    from jobs.settings import Settings


def columns_of_items(sizes: Mapping[str, int], settings: Settings) -> tuple[Column, ...]:
    """The columns of the catalogue that attributes are, by their names; none where none is asked for.

    Args:
        sizes: counts each vocabulary's indices.
        settings: which are asked for.

    Raises:
        WeightsError: as of `vectors_width`.
    """
    asked = examples_of(settings).item_attributes
    if not asked:
        return ()
    from spark_udfs.item_attributes import BUCKETS, NUMBER, PLACES, PREFIX, TEXT, VECTOR

    lengths = {NUMBER: None, VECTOR: vectors_width(settings)}

    def column(name: str, taken: str) -> Column:
        if taken in lengths:
            return Column(name, Kind.DENSE, length=lengths[taken], of_item=True)
        size = BUCKETS + 1 if taken == TEXT else sizes.get(name, 1)
        kind = Kind.IDS if taken in PLACES else Kind.ID
        return Column(name, kind, vocabulary=name, size=size, length=PLACES.get(taken), of_item=True)

    return tuple(column(PREFIX + name, asked[name]) for name in sorted(asked))


def vectors_width(settings: Settings) -> int:
    """Numbers of the vector that a language model makes of a text; 0 where attributes have none.

    Raises:
        WeightsError: there are no weights, or they are not known here.
    """
    if not examples_of(settings).takes_vectors:
        return 0
    from training.state.text_config import config_of
    from training.state.text_weights import weights_folder

    return config_of(weights_folder(examples_of(settings).text_weights)).hidden_size


def decides(settings: Settings) -> dict[str, Any]:
    """What texts' vectors are made by, where attributes are taken so; it has no options."""
    from training.state.text_weights import weights_digest, weights_folder

    examples = examples_of(settings)
    return {"weights_digest": weights_digest(weights_folder(examples.text_weights))} if examples.takes_vectors else {}
