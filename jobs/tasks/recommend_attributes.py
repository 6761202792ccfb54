"""Attributes of items that are asked for as columns of the catalogue, and by what texts become vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jobs.settings_lists import examples_of, graph_of
from training.schema import Column, Kind

if TYPE_CHECKING:
    from jobs.settings import Settings


def columns_of_items(sizes: Mapping[str, int], settings: Settings) -> tuple[Column, ...]:
    """The columns of the catalogue that attributes are, by their names, and a graph; none where none is asked for.

    Args:
        sizes: counts each vocabulary's indices.
        settings: which are asked for.

    Raises:
        WeightsError: as of `vector_widths`.
    """
    return (*_of_attributes(sizes, settings), *_of_graph(sizes, settings))


def _of_graph(sizes: Mapping[str, int], settings: Settings) -> tuple[Column, ...]:
    graph = graph_of(settings)
    if graph is None:
        return ()
    from spark_udfs.graph import GRAPH, GRAPH_PATH, PATHS

    size, places = sizes.get(GRAPH, 1), graph.places
    return (
        Column(GRAPH, Kind.IDS, vocabulary=GRAPH, size=size, length=places, of_item=True, weighed_by=GRAPH_PATH),
        Column(GRAPH_PATH, Kind.IDS, vocabulary=GRAPH_PATH, size=PATHS + 1, length=places, of_item=True),
    )


def _of_attributes(sizes: Mapping[str, int], settings: Settings) -> tuple[Column, ...]:
    asked = examples_of(settings).item_attributes
    if not asked:
        return ()
    from spark_udfs.item_attributes import BUCKETS, NUMBER, PLACES, PREFIX, TEXT

    widths = vector_widths(settings)

    def column(asked_for: str, taken: str) -> Column:
        name = PREFIX + asked_for
        if taken == NUMBER or asked_for in widths:
            return Column(name, Kind.DENSE, length=widths.get(asked_for), of_item=True)
        size = BUCKETS + 1 if taken == TEXT else sizes.get(name, 1)
        kind = Kind.IDS if taken in PLACES else Kind.ID
        return Column(name, kind, vocabulary=name, size=size, length=PLACES.get(taken), of_item=True)

    return tuple(column(name, asked[name]) for name in sorted(asked))


def vector_widths(settings: Settings) -> dict[str, int]:
    """Numbers of the vectors that attributes are taken as: those of columns, and those of texts by a language model.

    Raises:
        WeightsError: there are no weights for texts, or they are not known here.
    """
    examples = examples_of(settings)
    if not examples.takes_vectors:
        return examples.given_vectors
    from training.state.text_config import config_of
    from training.state.text_weights import weights_folder

    width = config_of(weights_folder(examples.text_weights)).hidden_size
    of_texts = [name for name, taken in examples.item_attributes.items() if taken == "vector"]
    return examples.given_vectors | dict.fromkeys(of_texts, width)


def decides(settings: Settings) -> dict[str, Any]:
    """What texts' vectors are made by, where attributes are taken so; it has no options."""
    from training.state.text_weights import weights_digest, weights_folder

    examples = examples_of(settings)
    return {"weights_digest": weights_digest(weights_folder(examples.text_weights))} if examples.takes_vectors else {}
