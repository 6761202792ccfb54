"""A training from a bundle's weights: what has grown keeps what it knew, and what does not fit is refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training import test_models as shop
from training.batch import Batch
from training.errors import BundleError, CheckpointError
from training.fit import Event, FitSettings, fit
from training.models.row_mlp import RowMlp
from training.models.two_tower import TwoTower
from training.schema import Column, Kind, Schema
from training.state.bundle import Bundle, load_bundle
from training.state.publish import write_bundle
from training.state.warm_start import warm_start
from training.tables.sharded import Tables
from training.world import World

CARDS = 12


def schema(cards: int, numbers: int = 2) -> Schema:
    return Schema(
        (
            Column("card", Kind.ID, "cards", cards),
            Column("numbers", Kind.DENSE, length=numbers),
            Column("label", Kind.LABEL),
        )
    )


def build(cards: int = CARDS, numbers: int = 2, tables: Tables | None = None, **config: Any) -> RowMlp:
    torch.manual_seed(cards)
    return RowMlp(RowMlp.Config.parse(config), schema(cards, numbers), tables)


class Rows:
    """Labels that follow from the card alone."""

    steps_per_epoch = 20

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for step in range(self.steps_per_epoch):
            draws = torch.Generator().manual_seed(100 * epoch + step)
            card = torch.randint(1, CARDS, (64,), generator=draws)
            numbers = 5 + torch.rand(64, 2, generator=draws)
            yield {"card": card, "numbers": numbers, "label": (card % 2).float()}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


SETTINGS = FitSettings(epochs=3, batch_size=64, learning_rate=0.01)


def publish(folder: Path, model: RowMlp) -> Bundle:
    written = write_bundle(
        folder,
        model_name="row_mlp",
        config=model.config.model_dump(mode="json"),
        schema=model.schema,
        tensors=model.state_dict(),
        provenance={},
        settings={},
        metrics={},
    )
    return load_bundle(written.path)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    model = build()
    fit(model, Rows(), SETTINGS, world=World())
    return publish(tmp_path_factory.mktemp("bundles"), model)


def table(model: nn.Module) -> Tensor:
    weight = model.state_dict()["inputs.tables.cards.weight"]
    assert isinstance(weight, Tensor)
    return weight


def test_a_grown_vocabulary_keeps_its_rows_and_begins_new_ones(bundle: Bundle) -> None:
    grown, untouched = build(CARDS + 5), build(CARDS + 5)
    warm_start(grown, bundle)
    assert torch.equal(table(grown)[:CARDS], bundle.tensor("inputs.tables.cards.weight"))
    assert torch.equal(table(grown)[CARDS:], table(untouched)[CARDS:])
    for name, tensor in grown.state_dict().items():
        assert name == "inputs.tables.cards.weight" or torch.equal(tensor, bundle.tensor(name)), name
    batch = next(Rows().epoch(9))
    assert torch.equal(grown.eval().predict(batch)["p"], bundle.model().predict(batch)["p"])


def test_a_bundle_that_adjusts_logits_is_gone_on_from_by_the_shares_of_the_new_examples(tmp_path: Path) -> None:
    """And `start_logit` says nothing then: not of weights that have learnt either."""

    def adjusted(ones: float, **config: Any) -> RowMlp:
        model = build(logit_adjustment=1.0, **config).eval()
        model.set_priors(torch.tensor([ones]), torch.tensor([1.0]))
        return model

    old, new, batch = adjusted(1.0), adjusted(3.0, start_logit=9.0), next(Rows().epoch(0))
    warm_start(new, publish(tmp_path, old))
    with torch.no_grad():
        torch.testing.assert_close(new.log_odds(batch)[0], old.log_odds(batch)[0] + torch.tensor(3.0).log())


def test_a_training_from_a_bundle_begins_where_it_ended(bundle: Bundle) -> None:
    events: list[Event] = []
    cold = fit(build(CARDS + 5), Rows(), SETTINGS, world=World())
    warm = fit(build(CARDS + 5), Rows(), SETTINGS, world=World(), start_from=bundle, report=events.append)
    assert warm.history[0]["loss"] < 0.3 * cold.history[0]["loss"]
    assert events[0].message == f"start at step 0 of 60, 1 ranks, from bundle {bundle.name}"


def test_a_checkpoint_goes_on_with_its_own_bundle_alone(bundle: Bundle, tmp_path: Path) -> None:
    def train(model: RowMlp, epochs: int, start_from: Bundle | None) -> list[dict[str, float]]:
        settings = SETTINGS.model_copy(update={"epochs": epochs})
        given = {"checkpoint_dir": str(tmp_path / "checkpoints"), "start_from": start_from}
        return fit(model, Rows(), settings, world=World(), **given).history  # type: ignore[arg-type]

    train(build(), 1, bundle)
    whole = fit(build(), Rows(), SETTINGS.model_copy(update={"epochs": 2}), world=World(), start_from=bundle).history
    assert train(build(), 2, bundle) == whole
    with pytest.raises(CheckpointError, match="start_from"):
        train(build(), 2, None)
    with pytest.raises(CheckpointError, match="start_from"):
        train(build(), 2, publish(tmp_path / "bundles", build()))


def of_columns(card: str, *numbers: str, length: int | None = 2) -> RowMlp:
    columns = (Column(name, Kind.DENSE, length=length) for name in numbers)
    made = Schema((Column(card, Kind.ID, "cards", CARDS), *columns, Column("label", Kind.LABEL)))
    return RowMlp(RowMlp.Config.parse({}), made)


def test_columns_in_another_order_are_refused(tmp_path: Path) -> None:
    """Their weights have one shape, and would be those of one another."""
    bundle = publish(tmp_path, of_columns("card", "amount", "age", length=None))
    warm_start(of_columns("card", "amount", "age", length=None), bundle)
    with pytest.raises(BundleError, match=r"in their order; here they are card of cards, age, amount, in '.*' card of"):
        warm_start(of_columns("card", "age", "amount", length=None), bundle)


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_takes_the_rows_that_it_holds(bundle: Bundle, rank: int) -> None:
    world = World()
    world.rank, world.size = rank, 3
    whole = build(CARDS + 5)
    warm_start(whole, bundle)
    sharded = build(CARDS + 5, tables=Tables(world, shard_above_mb=0.0))
    warm_start(sharded, bundle)
    assert torch.equal(table(sharded)[: len(table(whole)[rank:CARDS:3])], table(whole)[rank:CARDS:3])


def test_a_catalogues_own_figures_stay() -> None:
    """A model of lists holds counts of its catalogue, which are not the bundle's."""

    class Held:
        """A bundle as far as it is asked for."""

        path, schema = Path("b"), shop.SCHEMA

        def __init__(self, tensors: Mapping[str, Tensor]) -> None:
            self._tensors = tensors

        def tensor_names(self) -> list[str]:
            return list(self._tensors)

        def tensor(self, name: str) -> Tensor:
            return self._tensors[name]

    old, new = shop.build("two_tower"), shop.build("two_tower")
    assert isinstance(new, TwoTower)
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.add_(1.0)
        new.item_features.mul_(3.0)
    kept = new.item_features.clone()
    warm_start(new, Held(old.state_dict()))  # type: ignore[arg-type]
    assert torch.equal(new.item_features, kept)
    assert torch.equal(new.items.weight, old.state_dict()["items.weight"])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: build(CARDS - 1), r"vocabulary 'cards' must have grown at most.*it has 11 indices here and 12 in"),
        (lambda: build(dim=4), r"'inputs\.tables\.cards\.weight' is \[12, 4\] here and \[12, 8\] in"),
        (lambda: build(numbers=3), r"here they are card of cards, numbers of 3, in '.*' card of cards, numbers of 2;"),
        (lambda: of_columns("shade", "numbers"), r"here they are shade of cards, numbers of 2, in '.*' card of cards,"),
        (
            lambda: build(logit_adjustment=0.5),
            r"logit_adjustment.*is 0\.5 here and 0 in '.*'; set model\..* to 0, or start",
        ),
        (lambda: build(hidden=[64, 32, 16]), r"'network\.deep\.6\.weight' is \[16, 32\] here and \[1, 32\] in"),
        (lambda: build(hidden=[64, 32, 1, 1]), r"'network\.deep\.9\.weight' is \[1, 1\] here and not there in"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(bundle: Bundle, model: Any, words: str) -> None:
    made = model()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    with pytest.raises(BundleError, match=words):
        warm_start(made, bundle)
    for name, tensor in made.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)  # priors are yet to be told
