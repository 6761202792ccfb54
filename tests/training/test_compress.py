"""Bundles in fewer bytes: codes as plain numpy finds them, tensors within their bounds, and answers alike."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.spark_udfs.bundles import example_schema
from tests.training.test_warm_start import build, publish
from training.batch import Batch, Ragged
from training.errors import BundleError
from training.models import MODELS
from training.models.base import RetrievalModel
from training.state import publish as publishing
from training.state.bundle import Bundle, load_bundle
from training.state.compress import METHODS, Method, compress
from training.state.publish import write_bundle
from training.state.warm_start import warm_start
from training.tables.quantised import QuantisedTable, paired, quantised, rounded_up, unpaired

USERS, ITEMS, SOLD = 500, 400, 90
TOP = {"int8": 127.5, "int4": 7.5}


def shop(folder: Path, **config: Any) -> Bundle:
    """Two towers of which a user in five has rows, with counts that are whole numbers."""
    schema = example_schema(USERS, ITEMS)
    counts = {name: torch.arange(ITEMS).float() % 300 for name in ("user_count", "recent_count")}
    kind, values = MODELS["two_tower"], {"dim": 16} | config
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model: Any = kind(kind.Config.parse(values), schema, counts)  # type: ignore[call-arg]
        torch.nn.init.normal_(model.users.weight, std=0.3)
        torch.nn.init.normal_(model.biases.weight)
        model.users.weight.data[torch.arange(USERS) % 5 > 0] = 0.0
        model.items.weight.data[SOLD:] *= 1e-3
    return written(folder, "two_tower", values, schema, model.state_dict())


def written(folder: Path, name: str, config: Any, schema: Any, tensors: Any, **others: Any) -> Bundle:
    content = {"provenance": {"seed": 1}, "settings": {}, "metrics": {}} | others
    made = write_bundle(folder, model_name=name, config=config, schema=schema, tensors=tensors, **content)
    return load_bundle(made.path)


def smaller(bundle: Bundle, method: Method) -> Bundle:
    made = compress(bundle, method)
    return written(
        bundle.path.parent, bundle.model_name, bundle.config, bundle.schema, made.tensors, stored=made.stored
    )


def bytes_of(bundle: Bundle) -> int:
    return (bundle.path / "weights.safetensors").stat().st_size


def asked() -> Batch:
    return {
        "user": torch.tensor([5, 6, 0]),
        "history": Ragged(torch.tensor([3, 7, 200, 9]), torch.tensor([0, 2, 3, 4])),
        "history_age": Ragged(torch.tensor([1.0, 30.0, 2.0, 9.0]), torch.tensor([0, 2, 3, 4])),
    }


@pytest.mark.parametrize(("kind", "width"), [("int8", 16), ("int4", 16), ("int4", 9)])
def test_codes_are_those_that_numpy_finds(kind: Method, width: int) -> None:
    draws = np.random.default_rng(1).normal(size=(300, width)) * np.logspace(-12, 12, 300)[:, None]
    rows = draws.astype(np.float32).astype(np.float64)
    rows[7] = 0.0
    found = quantised(torch.from_numpy(rows).float(), kind)
    codes = (found[kind] if kind == "int8" else unpaired(found[kind], width)).numpy()
    scale, whole = (one.double().numpy()[:, None] for one in (found["scale"], rounded_up(largest(rows) / TOP[kind])))
    assert (scale <= whole).all()
    assert (scale >= whole * (1 if kind == "int8" else 0.79)).all()

    def levels(by: np.ndarray) -> np.ndarray:
        places = np.floor(rows / np.where(by > 0, by, 1))
        return np.clip(places, -TOP[kind] - 0.5, TOP[kind] - 0.5)

    assert np.mean(codes != levels(scale)) < 1e-3  # numbers that lie on a border in float32
    errors, plain = (codes + 0.5) * scale - rows, (levels(whole) + 0.5) * whole - rows
    assert ((errors**2).sum(axis=1) <= (plain**2).sum(axis=1) * (1 + 1e-4)).all()
    if kind == "int8":
        assert (np.abs(errors) <= scale / 2 * (1 + 1e-4)).all()
    assert not errors[7].any()


def largest(rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.abs(rows).max(axis=1)).float()


def test_pairs_and_scales_lose_nothing() -> None:
    codes = torch.arange(-8, 8, dtype=torch.int8).repeat(3)[:45].reshape(5, 9)
    assert torch.equal(unpaired(paired(codes), 9), codes)
    values = torch.tensor([0.0, 1.0, 1.0 + 2**-20, 3e-41, 1e38])
    up = rounded_up(values)
    assert up[:2].tolist() == [0.0, 1.0]
    assert bool(((up.float() >= values) & (up.float() <= values * (1 + 2**-7) + 1e-40)).all())


@pytest.mark.parametrize(("method", "share", "error"), [("int8", 0.29, 0.01), ("int4", 0.24, 0.12)])
def test_a_compressed_bundle_is_that_much_smaller_and_answers_alike(
    tmp_path: Path, method: Method, share: float, error: float
) -> None:
    bundle = shop(tmp_path)
    small = smaller(bundle, method)
    assert bytes_of(small) <= share * bytes_of(bundle)
    assert (small.schema, small.tensor_names()) == (bundle.schema, bundle.tensor_names())
    for name in bundle.tensor_names():
        before, after = bundle.tensor(name), small.tensor(name)
        assert (after.shape, after.dtype) == (before.shape, before.dtype)
        assert float((after - before).norm()) <= error * float(before.norm())
    assert torch.equal(small.tensor("item_features"), bundle.tensor("item_features"))
    before_model, model = (one.model() for one in (bundle, small))
    assert isinstance(model, RetrievalModel)
    assert isinstance(before_model, RetrievalModel)
    scores = [one.queries(asked()) @ one.item_matrix().T for one in (before_model, model)]
    known = [one[:, 1:] for one in scores]
    assert float((known[1] - known[0]).norm()) <= 2 * error * float(known[0].norm())


def test_rows_of_zeros_are_not_stored_and_tables_stay_as_they_are_stored(tmp_path: Path) -> None:
    small = smaller(shop(tmp_path), "int4")
    packed, users = small.packed("users.weight"), small.model().users
    assert isinstance(users, QuantisedTable)
    assert packed.codes.shape == (USERS // 5, 8)
    assert packed.rows is not None
    assert packed.rows.tolist() == list(range(0, USERS, 5))
    ids = torch.tensor([[0, 5, 6], [499, 495, 5]])
    assert torch.equal(users(ids), small.tensor("users.weight")[ids])
    assert users(ids).any(dim=2).tolist() == [[True, True, False], [False, True, True]]
    assert users.packed.codes.dtype is torch.uint8


def test_a_table_of_zeros_alone_is_one_still(tmp_path: Path) -> None:
    bundle = shop(tmp_path)
    zeros = {name: bundle.tensor(name) for name in bundle.tensor_names()} | {"users.weight": torch.zeros(USERS, 16)}
    small = smaller(written(tmp_path, "two_tower", bundle.config, bundle.schema, zeros), "int8")
    assert small.packed("users.weight").codes.shape == (0, 16)
    assert not small.model().users(torch.tensor([[1, 2]])).any()
    assert torch.equal(small.tensor("users.weight"), torch.zeros(USERS, 16))


def test_a_model_of_rows_predicts_alike_and_can_be_started_from(tmp_path: Path) -> None:
    bundle = publish(tmp_path, build(cards=300, numbers=20, dim=8, hidden=(64, 32)))
    small = smaller(bundle, "int8")
    assert {form.kind for form in small.stored.values()} == {"int8"}
    draws = torch.Generator().manual_seed(1)
    batch: Batch = {"card": torch.arange(300), "numbers": torch.randn(300, 20, generator=draws)}
    before, after = (one.model().predict(batch)["p"] for one in (bundle, small))
    assert torch.allclose(after, before, atol=0.01)
    begun = build(cards=310, numbers=20, dim=8, hidden=(64, 32))
    warm_start(begun, small)
    held: Tensor = begun.state_dict()["inputs.tables.cards.weight"]
    assert torch.equal(held[:300], small.tensor("inputs.tables.cards.weight"))


def test_what_cannot_be_compressed_is_refused(tmp_path: Path) -> None:
    small = smaller(shop(tmp_path), "int8")
    with pytest.raises(BundleError, match=rf"'{small.name}' is compressed already; .* 'not recorded'"):
        compress(small, "int4")
    bundle = publish(tmp_path, build(cards=20, numbers=40, hidden=(64,)))
    with pytest.raises(BundleError, match=r"int4 packs embedding tables of 8 .* 'row_mlp' .* has none: .* set int8"):
        compress(bundle, "int4")
    bundle = publish(tmp_path, build(cards=20, hidden=(8,)))
    with pytest.raises(BundleError, match=r"int8 packs embedding tables and linear layers .* has none: leave it as it"):
        compress(bundle, "int8")
    bundle = shop(tmp_path)
    tensors = {name: bundle.tensor(name).clone() for name in bundle.tensor_names()}
    tensors["users.weight"][3, 2] = float("inf")
    with pytest.raises(BundleError, match=r"must have finite weights; those of 'users.weight' are not"):
        compress(written(tmp_path, "two_tower", bundle.config, bundle.schema, tensors), METHODS[0])


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, before = shop(tmp_path), sorted(tmp_path.rglob("*"))

    def full(path: Path, tensors: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publishing, "write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        smaller(bundle, "int8")
    assert sorted(tmp_path.rglob("*")) == before
