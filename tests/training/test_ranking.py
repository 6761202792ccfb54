"""Crosses of two columns, which logistic regression cannot find and every published model can; the papers' formulas."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.learning import training_losses
from tests.training.test_row_models import MODELS_OF_ROWS, auc
from training.batch import Batch, Ragged
from training.errors import SchemaError, SettingsError
from training.models import MODELS, Model
from training.models.interactions import Crosses, Fusion, Gates, dots, pairs
from training.schema import Column, Kind, Schema
from training.state.bundle import Bundle, load_bundle
from training.state.publish import write_bundle

SIDES, TAGS = 12, 6
COLUMNS = {
    "left": Column("left", Kind.ID, "sides", SIDES + 1),
    "right": Column("right", Kind.ID, "sides", SIDES + 1),
    "tags": Column("tags", Kind.IDS, "tags", TAGS + 1),
    "number": Column("number", Kind.DENSE),
    "vector": Column("vector", Kind.DENSE, length=3),
}
CROSSES = ("left right", "left number", "tags vector")


def signs(batch: Batch) -> dict[str, Tensor]:
    """Of each column -1 or 1, alike likely: no column says anything of a product of two of them."""
    tags = batch["tags"]
    assert isinstance(tags, Ragged)
    one, other = (batch[name] for name in ("left", "right"))
    number, vector = batch["number"], batch["vector"]
    return {
        "left": 2.0 * (one % 2) - 1,  # type: ignore[operator]
        "right": 2.0 * (other % 2) - 1,  # type: ignore[operator]
        "tags": 2.0 * (tags.values[tags.offsets[:-1]] % 2) - 1,
        "number": torch.sign(number),  # type: ignore[arg-type]
        "vector": torch.sign(vector[:, 1]),  # type: ignore[call-overload, index]
    }


def rows(seed: int, cross: str, count: int = 256) -> Batch:
    """The label is 1 where the two columns of the cross have the same sign; a list is one tag twice."""
    draws = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, SIDES + 1, (2, count), generator=draws)
    tags = torch.randint(1, TAGS + 1, (count,), generator=draws).repeat_interleave(2)
    batch: Batch = {
        "left": ids[0],
        "right": ids[1],
        "tags": Ragged(tags, torch.arange(count + 1) * 2),
        "number": torch.randn(count, generator=draws),
        "vector": torch.randn(count, 3, generator=draws),
    }
    first, second = (signs(batch)[name] for name in cross.split())
    return {**batch, "label": (first * second > 0).float()}


def build(name: str, columns: tuple[str, ...] = tuple(COLUMNS), **config: object) -> Model:
    torch.manual_seed(0)
    model = MODELS[name]
    schema = Schema((*(COLUMNS[column] for column in columns), Column("label", Kind.LABEL)))
    return model(model.Config.parse({"start_logit": 0.0, **config}), schema)


def published(folder: Path, name: str, model: Model) -> Bundle:
    written = write_bundle(
        folder,
        model_name=name,
        config=model.config.model_dump(mode="json"),
        schema=model.schema,
        tensors=model.state_dict(),
        provenance={},
        settings={},
        metrics={},
    )
    return load_bundle(written.path)


def found(name: str, cross: str) -> float:
    """AUC of unseen rows."""
    model = build(name).train()
    list(training_losses(model, lambda seed: rows(seed, cross), 120, sparse_rate=0.03))
    unseen = rows(10_000, cross, 2048)
    with torch.no_grad():
        return auc(model.eval().predict(unseen)["p"], unseen["label"])  # type: ignore[arg-type]


@pytest.mark.parametrize("cross", CROSSES)
@pytest.mark.parametrize("name", [name for name in MODELS_OF_ROWS if name not in ("logistic_regression", "row_mlp")])
def test_a_cross_of_two_columns_is_found(name: str, cross: str) -> None:
    assert found(name, cross) > 0.8


@pytest.mark.parametrize("cross", CROSSES)
def test_logistic_regression_cannot_find_it(cross: str) -> None:
    assert abs(found("logistic_regression", cross) - 0.5) < 0.05


def fields(count: int = 5, dim: int = 4) -> Tensor:
    return torch.randn(7, count, dim, generator=torch.Generator().manual_seed(3))


def test_the_machine_sums_all_pairs() -> None:
    plain = sum((fields()[:, i] * fields()[:, j]).sum(1) for i, j in combinations(range(5), 2))
    torch.testing.assert_close(pairs(fields()), plain, rtol=1e-5, atol=1e-5)


def test_a_field_is_its_value_times_its_vector() -> None:
    """The whole formula of the paper: numbers are standardised, a list's ids share its weight of one."""
    model = build("fm").eval()
    batch = rows(5, "left right", 9)
    inputs, own, tags = model.fields.inputs, model.fields.vectors, batch["tags"]
    of_sides, of_tags = inputs.tables["sides"].weight, inputs.tables["tags"].weight
    number, vector = (torch.sign(value) * torch.log1p(value.abs()) for value in (batch["number"], batch["vector"]))
    for row in range(9):
        first, second = tags.values[2 * row : 2 * row + 2]
        held = [of_sides[batch["left"][row]], of_sides[batch["right"][row]], (of_tags[first] + of_tags[second]) / 2]
        held += [number[row] * own[0][0], sum(vector[row, k] * own[1][k] for k in range(3))]
        plain = model.start + sum(one[-1] for one in held)
        plain = plain + sum((one[:-1] * other[:-1]).sum() for one, other in combinations(held, 2))
        torch.testing.assert_close(model.logit(batch, None)[row], plain[0], rtol=1e-5, atol=1e-5)


def test_dots_are_those_of_each_pair() -> None:
    plain = [(fields()[:, i] * fields()[:, j]).sum(1) for i in range(5) for j in range(i)]
    torch.testing.assert_close(dots(fields()), torch.stack(plain, dim=1))


@pytest.mark.parametrize("rank", [0, 3])
def test_cross_layers_are_the_papers(rank: int) -> None:
    first = fields(1, 8).flatten(1)
    torch.manual_seed(0)
    crosses = Crosses(8, 2, rank)
    wanted = first
    for layer in crosses.layers:
        matrix, bias = (layer.weight, layer.bias) if not rank else (layer[1].weight @ layer[0].weight, layer[1].bias)
        assert torch.linalg.matrix_rank(matrix) == (rank or 8)
        wanted = first * (wanted @ matrix.T + bias) + wanted
    torch.testing.assert_close(crosses(first), wanted, rtol=1e-5, atol=1e-5)


def test_the_fusion_of_two_streams_is_bilinear_by_heads() -> None:
    first, second = fields(1, 6).flatten(1), fields(1, 4).flatten(1)
    fusion = Fusion(6, 4, 2, start=0.5)
    torch.testing.assert_close(fusion(first, second), torch.full((7,), 0.5))
    torch.manual_seed(0)
    torch.nn.init.normal_(fusion.matrices)
    plain = sum(
        first[:, 3 * head + i] * fusion.matrices[head, i, j] * second[:, 2 * head + j]
        for head in range(2)
        for i in range(3)
        for j in range(2)
    )
    torch.testing.assert_close(fusion(first, second), plain + 0.5, rtol=1e-5, atol=1e-5)


def test_gates_start_open_and_close_by_their_columns_alone() -> None:
    gates = Gates(["a", "b", "c", "d", "e"], ["c"], 4)
    torch.testing.assert_close(gates(fields()), fields().flatten(1))
    torch.nn.init.normal_(gates.network[-1].weight)
    changed = fields()
    changed[:, 0] += 1
    share = gates(fields()) / fields().flatten(1)
    torch.testing.assert_close(gates(changed) / changed.flatten(1), share)
    assert float(share.detach().std()) > 0.1


@pytest.mark.parametrize("columns", [("left", "right"), ("number", "vector")])
@pytest.mark.parametrize("name", MODELS_OF_ROWS)
def test_ids_alone_and_numbers_alone_are_enough(name: str, columns: tuple[str, ...]) -> None:
    model, batch = build(name, columns).train(), rows(1, "left right")
    total, weight = model.loss(batch, torch.Generator())
    total.backward()
    assert float(total.detach() / weight) == pytest.approx(0.6931, abs=0.05)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", MODELS_OF_ROWS)
def test_a_bundle_answers_as_the_model(name: str, tmp_path: Path) -> None:
    model = build(name).train()
    list(training_losses(model, lambda seed: rows(seed, "left right"), 3, sparse_rate=0.02))
    asked = {name: value for name, value in rows(7, "left right").items() if name != "label"}
    with torch.no_grad():
        answered = published(tmp_path, name, model).model().predict(asked)["p"]
        assert torch.equal(answered, model.eval().predict(asked)["p"])
    assert float(answered.std()) > 0


def test_gates_of_unknown_columns_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"second_gates must name columns .*left, right, tags.*got \['user'\]"):
        build("final_mlp", second_gates=["user"])


def test_heads_must_divide_both_streams() -> None:
    with pytest.raises(SettingsError, match=r"must be multiples of heads = 3; got \[64, 63\]"):
        build("final_mlp", heads=3, second_hidden=[63])


def test_a_single_column_of_ids_leaves_dlrm_nothing_to_multiply() -> None:
    schema = Schema((COLUMNS["left"], Column("fraud", Kind.LABEL)))
    with pytest.raises(SchemaError, match="dlrm needs two columns of ids, or numbers"):
        MODELS["dlrm"](MODELS["dlrm"].Config.parse({}), schema)
