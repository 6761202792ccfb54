"""Models of pictures: planted classes are found, from pixels and from bytes alike, and no other picture changes one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.training.learning import training_losses
from training.batch import Batch, chosen
from training.data.pictures import changing
from training.errors import SchemaError, SettingsError
from training.models import MODELS
from training.models.pictures import PictureModel
from training.schema import Column, Kind, Schema

SIDE, CLASSES = 12, 3
PICTURE = Column("picture", Kind.IMAGE, shape=(SIDE, SIDE, 1))
LABEL = Column("label", Kind.LABEL, "classes", CLASSES + 1)
SCHEMA = Schema((PICTURE, LABEL))
SMALL = {
    "conv_net": {"widths": [8, 16], "grid": 2, "dim": 8},
    "vision_transformer": {"width": 16, "layers": 1, "heads": 2, "patch": 4, "dim": 8},
}
CHANGED = {"flipped": 0.5, "shifted": 1, "erased": 0.5}


def pictures(seed: int, count: int = 64) -> Batch:
    """Lines across, lines down, or a square in one of many places; and noise."""
    rng = np.random.default_rng(seed)
    label = rng.integers(1, CLASSES + 1, count)
    lines = (np.arange(SIDE) + rng.integers(0, 4, (count, 1))) % 4 < 2
    across = np.broadcast_to(lines[:, :, None], (count, SIDE, SIDE))
    place = rng.integers(0, SIDE - 5, (count, 2))
    near = [(np.arange(SIDE) >= at[:, None]) & (np.arange(SIDE) < at[:, None] + 5) for at in place.T]
    drawn = np.stack([across, across.transpose(0, 2, 1), near[0][:, :, None] & near[1][:, None, :]])
    pixels = (180 * drawn[label - 1, np.arange(count)] + rng.integers(0, 60, (count, SIDE, SIDE))).astype(np.uint8)
    return {"picture": [one.tobytes() for one in pixels], "label": torch.from_numpy(label).float()}


def build(name: str, **config: Any) -> PictureModel:
    torch.manual_seed(0)
    model = MODELS[name](MODELS[name].Config.parse(SMALL[name] | config), SCHEMA)
    assert isinstance(model, PictureModel)
    return model


@pytest.fixture(scope="module", params=sorted(SMALL))
def trained(request: pytest.FixtureRequest) -> PictureModel:
    model = build(request.param).train()
    change = changing(PICTURE, **CHANGED)
    list(training_losses(model, lambda step: change(pictures(step), np.arange(64), step), 60, 0.1))
    return model.eval()


def test_every_model_of_pictures_is_looked_at() -> None:
    assert set(SMALL) == {name for name, kind in MODELS.items() if issubclass(kind, PictureModel)}


def test_planted_classes_are_found(trained: PictureModel) -> None:
    batch = pictures(1_000, 200)
    with torch.no_grad():
        found = trained.predict(batch)
    assert float((found["class"] == batch["label"]).float().mean()) > 0.95
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "class": (200,), "p": (200,), "probabilities": (200, CLASSES), "vector": (200, 8)
    }  # fmt: skip
    torch.testing.assert_close(found["probabilities"].sum(dim=1), torch.ones(200))
    torch.testing.assert_close(found["vector"].norm(dim=1), torch.ones(200))
    with torch.no_grad():
        assert {name: len(value) for name, value in trained.predict({"picture": []}).items()} == dict.fromkeys(found, 0)


def test_an_answer_is_the_pictures_own_and_the_same_from_its_other_side(trained: PictureModel) -> None:
    batch = pictures(7, 20)
    with torch.no_grad():
        every, some = trained.predict(batch), trained.predict(chosen(batch, torch.arange(20) < 5))
        turned = changing(PICTURE, flipped=1.0, shifted=0, erased=0.0)(batch, np.arange(20), 0)
        mirrored = trained.predict(turned)
    for name in every:
        torch.testing.assert_close(every[name][:5], some[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(every[name], mirrored[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_nothing_is_learnt_of_a_class_that_is_not_known(name: str) -> None:
    batch, model = pictures(3, 8), build(name).eval()
    loss, weight = model.loss(batch)
    unknown = batch | {
        "picture": [*batch["picture"], bytes(SIDE * SIDE)],
        "label": torch.cat([batch["label"], torch.zeros(1)]),
    }  # type: ignore[list-item]
    more, rows = model.loss(unknown)
    torch.testing.assert_close(loss, more)
    assert float(weight) == float(rows) == 8
    nothing, none = model.train().loss({"picture": [], "label": torch.zeros(0)})
    assert float(nothing.detach()) == float(none) == 0


def test_other_schemas_and_configs_are_refused() -> None:
    kind = MODELS["conv_net"]
    for columns, words in (
        ((LABEL,), r"one picture of a fixed shape; the schema has \[\]"),
        ((Column("picture", Kind.IMAGE), LABEL), r"'picture of shape None'"),
        ((PICTURE,), r"one label, .* the labels \[\]"),
        ((PICTURE, Column("label", Kind.LABEL, "classes", 1)), r"'label of 1 numbers'"),
    ):
        with pytest.raises(SchemaError, match=words):
            kind(kind.Config.parse({}), Schema(columns))
    with pytest.raises(SchemaError, match=r"multiples of model\.patch = 5; they are 12 and 12"):
        build("vision_transformer", patch=5)
    with pytest.raises(SettingsError, match="width must be a multiple of heads = 3; got 16"):
        build("vision_transformer", heads=3)
    with pytest.raises(SchemaError, match=r"has the shape \(0, 2, 1\); an image alone has one"):
        Column("picture", Kind.IMAGE, shape=(0, 2, 1))
    with pytest.raises(SettingsError, match="halved must be 1 at most, a time for each of widths; got 2"):
        MODELS["conv_net"].Config.parse({"widths": [8], "halved": 2})
    with pytest.raises(SchemaError, match=r"of kind label has the shape \(2, 2, 1\)"):
        Column("label", Kind.LABEL, shape=(2, 2, 1))
    with pytest.raises(SchemaError, match=r"144 bytes a picture, .* 12 x 12 x 1; one has 3:"):
        build("conv_net").predict({"picture": [bytes(144), b"abc"]})
    with pytest.raises(SchemaError, match="'picture' must have a shape in the schema"):
        changing(Column("picture", Kind.IMAGE), **CHANGED)({"picture": [b"abc"]}, np.arange(1), 0)


def test_a_schema_with_a_shape_goes_through_json() -> None:
    assert Schema.from_json(SCHEMA.to_json()) == SCHEMA
    assert "shape" not in Schema((Column("picture", Kind.IMAGE),)).to_json()[0]  # as of old, so that fingerprints stay


def test_changes_follow_from_seed_and_row_alone() -> None:
    batch, change = pictures(5, 40), changing(PICTURE, **CHANGED)
    rows = np.arange(40) + 1_000
    whole, part = change(batch, rows, 3), change(chosen(batch, torch.arange(40) % 2 == 0), rows[::2], 3)
    assert torch.equal(whole["picture"][::2], part["picture"])  # type: ignore[index, arg-type]
    other = change(batch, rows, 4)
    assert not torch.equal(whole["picture"], other["picture"])  # type: ignore[arg-type]
    assert isinstance(batch["picture"], list)


def test_pictures_are_moved_and_seen_from_the_other_side_and_never_upside_down() -> None:
    pixels = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
    batch: Batch = {"picture": [pixels.tobytes()] * 200}

    def seen(**how: Any) -> set[bytes]:
        found = changing(PICTURE, **({"flipped": 0.0, "shifted": 0, "erased": 0.0} | how))(batch, np.arange(200), 1)
        return {one.numpy().tobytes() for one in found["picture"]}  # type: ignore[union-attr]

    assert seen() == {pixels.tobytes()}
    assert seen(flipped=0.5) == {pixels.tobytes(), pixels[:, ::-1].tobytes()}
    edged = np.pad(pixels, 1, mode="edge")
    moved = {edged[y : y + SIDE, x : x + SIDE].tobytes() for y in range(3) for x in range(3)}
    assert seen(shifted=1) == moved
    covered = [np.frombuffer(one, np.uint8).reshape(SIDE, SIDE) for one in seen(erased=1.0)]
    changed = [one != pixels for one in covered]
    mean = round(float(pixels.mean()))
    assert all((one[where] == mean).all() for one, where in zip(covered, changed, strict=True))
    assert all(2 * 2 - 1 <= where.sum() <= 6 * 6 for where in changed)
