"""The search space: read from fields, checked against them, always holding the configured values."""

from __future__ import annotations

from typing import Any, Literal

import optuna
import pytest
from optuna.trial import FixedTrial
from pydantic import BaseModel, Field

from training.errors import SettingsError
from training.row_configs import RowMlpConfig
from tuning.space import Space, by_section, read_space


def searched(default: Any, **spec: Any) -> Any:
    return (
        Field(default, ge=0, json_schema_extra={"search": spec})
        if isinstance(default, int | float)
        else Field(default, json_schema_extra={"search": spec})
    )


class Model(BaseModel):
    width: int = searched(64, choices=[32, 64])
    layers: int = searched(2, low=1, high=5, step=2)
    rate: float = searched(0.01, low=0.001, high=0.1, log=True)
    share: float = searched(0.5, low=0.0, high=1.0, step=0.25)
    loss: Literal["softmax", "bpr"] = searched("softmax", choices=["softmax", "bpr"])
    clip: float | None = searched(None, choices=[None, 1.0])
    held: int = 3


CONFIGURED = Model(layers=3)


def test_the_fields_ranges_become_parameters() -> None:
    space = read_space({"model": CONFIGURED})
    assert [p.name for p in space.parameters] == [
        f"model.{n}" for n in ("width", "layers", "rate", "share", "loss", "clip")
    ]
    assert space.start() == {
        "model.width": 64,
        "model.layers": 3,
        "model.rate": 0.01,
        "model.share": 0.5,
        "model.loss": "softmax",
        "model.clip": None,
    }
    assert space.to_json()["model.rate"] == {"low": 0.001, "high": 0.1, "log": True, "step": None, "choices": ()}


def test_proposals_lie_in_the_space_and_make_valid_configs() -> None:
    space = read_space({"model": CONFIGURED})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [Model(**space.suggest(study.ask())["model"]) for _ in range(40)]
    assert {model.width for model in seen} == {32, 64}
    assert {model.layers for model in seen} == {1, 3, 5}
    assert {model.share for model in seen} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert {model.clip for model in seen} == {None, 1.0}
    assert {model.loss for model in seen} == {"softmax", "bpr"}
    assert all(0.001 <= model.rate <= 0.1 for model in seen)
    assert sum(model.rate < 0.01 for model in seen) > 10  # half of a log range lies below its middle


def test_sections_are_kept_apart() -> None:
    class Training(BaseModel):
        rate: float = searched(0.1, low=0.1, high=1.0)

    space = read_space({"model": CONFIGURED, "training": Training()})
    values = {**space.start(), "training.rate": 0.7}
    assert space.suggest(FixedTrial(values))["training"] == {"rate": 0.7}
    assert by_section({"a.b": 1, "a.c": 2, "d.e": 3}) == {"a": {"b": 1, "c": 2}, "d": {"e": 3}}


def test_a_configured_value_outside_its_range_joins_it() -> None:
    space = read_space({"model": Model(width=48, layers=7, rate=0.5)})
    ranges = space.to_json()
    assert ranges["model.width"]["choices"] == (32, 64, 48)
    assert (ranges["model.layers"]["low"], ranges["model.layers"]["high"]) == (1, 7)
    assert ranges["model.rate"]["high"] == 0.5


def test_ranges_from_the_settings_go_over_the_fields_and_null_holds_a_field() -> None:
    ranges = {"model.width": {"choices": [64]}, "model.rate": None, "model.held": {"low": 1, "high": 4}}
    space = read_space({"model": CONFIGURED}, ranges)
    assert [p.name for p in space.parameters][-1] == "model.held"
    assert "model.rate" not in space.start()
    assert space.to_json()["model.width"]["choices"] == (64,)


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("rate", {"low": 0.1, "hihg": 1.0}, r"model\.rate: a search range has low and high .* got \['hihg'\]"),
        ("rate", {}, r"model\.rate: a search range .* got \{\}"),
        ("rate", 7, r"model\.rate: a search range .* got 7"),
        ("rate", {"low": "1e-4", "high": 1.0}, r"low must be a finite float; got '1e-4' \(YAML takes 1e-4 for text"),
        ("rate", {"low": 0.1}, r"high must be a finite float; got None"),
        ("rate", {"low": 0.1, "high": float("inf")}, r"high must be a finite float; got inf"),
        ("rate", {"low": float("nan"), "high": 0.2}, r"low must be a finite float; got nan"),
        ("rate", {"low": 0.1, "high": 10**400}, r"high must be a finite float; got 10000"),
        ("rate", {"low": 0.1, "high": 0.2, "step": float("inf")}, r"step must be a finite float; got inf"),
        ("rate", {"low": 0.1, "high": 0.2, "step": 1e-320}, r"step must be > 0 and lead .*, step=1e-320"),
        ("rate", {"low": 1.0, "high": 0.1}, r"low must be less than high; got low=1\.0, high=0\.1"),
        ("rate", {"low": 0.0, "high": 0.1, "log": True}, r"needs low > 0 .*'low': 0\.0"),
        ("rate", {"low": 0.1, "high": 0.3, "log": True, "step": 0.1}, r"goes without step; got .*'step': 0\.1"),
        ("layers", {"low": 1, "high": 2.5}, r"high must be a finite int; got 2\.5"),
        ("layers", {"low": True, "high": 2}, r"low must be a finite int; got True"),
        ("layers", {"low": 1, "high": 4, "step": 2}, r"lead from low to high .* value 3; got low=1, high=4, step=2"),
        ("layers", {"low": 2, "high": 4, "step": 2}, r"configured value 3; got low=2"),
        ("layers", {"low": -1, "high": 4}, r"model\.layers: the field refuses -1 \(.*greater than or equal to 0"),
        ("clip", {"low": 0.1, "high": 1.0}, r"model\.clip: the search starts from the configured value, and None"),
        ("loss", {"low": 1, "high": 2}, r"model\.loss: only int and float fields have low and high; .*'low': 1"),
        ("loss", {"choices": ["softmax", "hinge"]}, r"model\.loss: the field refuses 'hinge'"),
        ("width", {"choices": []}, r"choices must be a list of at least one value; got \[\]"),
        ("width", {"choices": "32,64"}, r"choices must be a list .* got '32,64'"),
        ("width", {"choices": [32, 32]}, r"choices must differ; got \[32, 32\]"),
        ("width", {"choices": [[32], [64]]}, r"a choice must be a number, .* got \[32\]"),
        ("width", {"choices": [32], "log": True}, r"choices stand alone; drop log"),
        ("wdith", {"choices": [32]}, r"model\.wdith: there is no such field to search; known sections: model"),
    ],
)
def test_a_wrong_spec_is_named_with_its_value(name: str, spec: Any, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_space({"model": CONFIGURED}, {f"model.{name}": spec})


def test_all_problems_come_together() -> None:
    with pytest.raises(SettingsError, match=r"(?s)3 problem\(s\).*model\.width.*model\.rate.*model\.nope"):
        read_space({"model": CONFIGURED}, {"model.rate": {"low": 2}, "model.width": {"choices": []}, "model.nope": {}})


def test_a_study_needs_something_to_vary() -> None:
    class Plain(BaseModel):
        width: int = 3

    with pytest.raises(SettingsError, match="no field of model carries a search range"):
        read_space({"model": Plain()})


def test_an_empty_space_suggests_nothing() -> None:
    assert Space(()).suggest(FixedTrial({})) == {}


def test_what_is_done_about_rare_labels_may_be_varied() -> None:
    ranges: dict[str, dict[str, Any] | None] = {
        "model.positive_weight": {"low": 1.0, "high": 50.0, "log": True},
        "model.negatives_kept": {"low": 0.05, "high": 1.0, "log": True},
        "model.focal": {"low": 0.0, "high": 4.0},
        "model.logit_adjustment": {"low": 0.0, "high": 1.0},
    }
    held = RowMlpConfig.search_space()
    space = read_space({"model": RowMlpConfig()}, ranges)
    assert {p.name for p in space.parameters} == {*ranges, *(f"model.{name}" for name in held)}
    wanted = {"positive_weight": 7.0, "negatives_kept": 0.2, "focal": 2.0, "logit_adjustment": 1.0}
    proposed = {**space.start(), **{f"model.{name}": value for name, value in wanted.items()}}
    found = RowMlpConfig.parse(space.suggest(FixedTrial(proposed))["model"])
    assert isinstance(found, RowMlpConfig)
    assert {name: getattr(found, name) for name in wanted} == wanted
