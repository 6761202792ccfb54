"""The same data and global batch end alike at 1, 2, 3 and 4 ranks, and each goes on from another's checkpoint."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pyarrow as pa
import pytest
from deltalake import WriterProperties, write_deltalake

from cluster.launch import launch
from tests.training import tiny
from tests.training.world_sizes import BATCH, CUT_AT, ROWS, train_each
from training.world import World

SIZES = (1, 2, 3, 4)
STEPS = -(-ROWS // BATCH)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """At each size: a whole training, one cut in mid-epoch, and the one before's, gone on with."""
    folder = tmp_path_factory.mktemp("sizes")
    columns = {name: column.numpy() for name, column in tiny.rows(ROWS).items()}
    table = pa.table({"id": pa.array(range(ROWS), pa.int64()), **columns})
    write_deltalake(folder / "table", table, writer_properties=WriterProperties(max_row_group_size=20))
    place, found = {"table": str(folder / "table")}, {}
    for size in SIZES:
        whole, cut = place, {**place, "folder": str(folder / f"cut-at-{size}"), "cut": True}
        on = {} if size == 1 else {"on": {**place, "folder": str(folder / f"cut-at-{size - 1}")}}
        found[size] = _train({"whole": whole, "cut": cut, **on}, size)
    return {**found, 1: found[1] | _train({"on": {**place, "folder": str(folder / f"cut-at-{SIZES[-1]}")}}, 1)}


def _train(specs: dict[str, Any], ranks: int) -> dict[str, Any]:
    """On ranks, or here where it is one."""
    if ranks == 1:
        return train_each(specs, World())
    return launch("tests.training.world_sizes:train_each", specs, ranks=ranks, timeout_s=250)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", SIZES)
def test_every_size_ends_with_the_same_loss(size: int, ended: dict[int, dict[str, Any]]) -> None:
    alone, many = ended[1]["whole"], ended[size]["whole"]
    assert many["steps"] == alone["steps"] == 2 * STEPS
    assert many["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert [sorted(step) for step in many["seen"]] == [sorted(step) for step in alone["seen"]]
    assert many["loaded"] == [ROWS, ROWS]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("size", SIZES)
def test_a_checkpoint_goes_on_at_another_size_with_each_row_once(size: int, ended: dict[int, dict[str, Any]]) -> None:
    before, after = ended[SIZES[size - 2]]["cut"], ended[size]["on"]
    assert before["seen"][:CUT_AT] == before["seen"][:-1]  # the last batch was computed, and stopped at
    first_epoch = before["seen"][:CUT_AT] + after["seen"][: STEPS - CUT_AT]
    assert sorted(chain(*first_epoch)) == list(range(ROWS))
    assert sorted(chain(*after["seen"][STEPS - CUT_AT :])) == list(range(ROWS))
    assert after["loss"] == pytest.approx(ended[1]["whole"]["loss"], rel=1e-5)
