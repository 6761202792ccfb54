"""What a study may vary: read from the fields of a model's Config and of FitSettings.

A field says its range beside its type, so that a new model can be tuned without touching this package:

    width: int = Field(64, json_schema_extra={"search": {"choices": [32, 64, 128]}})
    learning_rate: float = Field(1e-3, json_schema_extra={"search": {"low": 1e-4, "high": 1e-2, "log": True}})
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from training.errors import SettingsError

if TYPE_CHECKING:
    from optuna.trial import Trial

KEYS = {"low", "high", "log", "step", "choices"}
Ranges = Mapping[str, Mapping[str, Any] | None]


@dataclass(frozen=True)
class Parameter:
    """One thing that is varied.

    Attributes:
        name: "section.field", e.g. "training.learning_rate".
        start: the configured value, which the first trial takes; the range always holds it.
        low, high: bounds of a number, both included; None for choices.
        log: search the logarithm.
        step: distance of the values allowed, from `low`.
        choices: the values allowed, for what is not a range.
    """

    name: str
    start: Any
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Trial) -> Any:
        """The value that the study proposes for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, step=int(self.step or 1), log=self.log)
        assert self.low is not None
        assert self.high is not None
        return trial.suggest_float(self.name, self.low, self.high, step=self.step, log=self.log)


@dataclass(frozen=True)
class Space:
    """All that a study varies."""

    parameters: tuple[Parameter, ...]

    def suggest(self, trial: Trial) -> dict[str, dict[str, Any]]:
        """Values for a trial by section, e.g. {"model": {"width": 64}, "training": {"learning_rate": 0.003}}."""
        return by_section({parameter.name: parameter.suggest(trial) for parameter in self.parameters})

    def start(self) -> dict[str, Any]:
        """The configured values by parameter: what a training without tuning would use."""
        return {parameter.name: parameter.start for parameter in self.parameters}

    def to_json(self) -> dict[str, dict[str, Any]]:
        """The ranges without the starting values; part of a study's fingerprint."""
        drop = ("name", "start")
        return {p.name: {key: value for key, value in asdict(p).items() if key not in drop} for p in self.parameters}


def by_section(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """{"model.width": 64} to {"model": {"width": 64}}."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, _, field = name.partition(".")
        sections.setdefault(section, {})[field] = value
    return sections


def read_space(sections: Mapping[str, BaseModel], ranges: Ranges | None = None) -> Space:
    """Read the search space from configured sections; every problem is reported together.

    Args:
        sections: configs by section name, e.g. {"model": TwoTower.Config(), "training": FitSettings()}. Their classes
            say what may be varied, their values where the search starts.
        ranges: specs by "section.field", over those of the fields; None holds a field at its configured value.

    Returns:
        The space; a configured value outside its range joins it, so that the first trial is what you would train
        without tuning.

    Raises:
        SettingsError: a spec is wrong, `ranges` names an unknown field, or nothing is left to vary.
    """
    given = dict(ranges or {})
    parameters, problems = [], []
    for section, config in sections.items():
        for field, info in type(config).model_fields.items():
            name = f"{section}.{field}"
            spec = given.pop(name) if name in given else _spec_of(info)
            if spec is None:
                continue
            try:
                parameters.append(_parameter(name, spec, config, field))
            except SettingsError as error:
                problems.append(str(error))
    problems += [f"{name}: there is no such field to search; known sections: {', '.join(sections)}" for name in given]
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise SettingsError(f"{len(problems)} problem(s) with the search space:\n{listed}")
    if not parameters:
        raise SettingsError(
            f"a study needs something to vary, and no field of {', '.join(sections)} carries a search range; "
            "set tuning.space, e.g. {training.learning_rate: {low: 0.0001, high: 0.01, log: true}}"
        )
    return Space(tuple(parameters))


def _spec_of(info: FieldInfo) -> Mapping[str, Any] | None:
    extra = info.json_schema_extra
    return extra.get("search") if isinstance(extra, dict) else None  # type: ignore[return-value]  # _parameter checks it


def _parameter(name: str, spec: Any, config: BaseModel, field: str) -> Parameter:
    if not isinstance(spec, Mapping) or (unknown := set(spec) - KEYS) or not spec:
        got = sorted(unknown) if isinstance(spec, Mapping) and spec else repr(spec)
        raise SettingsError(f"{name}: a search range has low and high (and log or step), or choices; got {got}")
    start = getattr(config, field)
    if "choices" in spec:
        parameter = _choice(name, spec, start)
        values: tuple[Any, ...] = parameter.choices
    else:
        parameter = _range(name, spec, start, kind=_number_kind(type(config).model_fields[field]))
        values = (parameter.low, parameter.high)
    for value in values:
        _accepted(name, config, field, value)
    return parameter


def _choice(name: str, spec: Mapping[str, Any], start: Any) -> Parameter:
    choices = spec["choices"]
    if len(spec) > 1:
        raise SettingsError(f"{name}: choices stand alone; drop {', '.join(sorted(set(spec) - {'choices'}))}")
    if not isinstance(choices, list | tuple) or not choices:
        raise SettingsError(f"{name}: choices must be a list of at least one value; got {choices!r}")
    for value in (*choices, start):
        if not isinstance(value, str | bool | int | float | NoneType):
            raise SettingsError(f"{name}: a choice must be a number, a string, a boolean or null; got {value!r}")
    held = tuple(choices) if start in choices else (*choices, start)
    if len(set(held)) < len(held):
        raise SettingsError(f"{name}: choices must differ; got {list(choices)!r}")
    return Parameter(name, start, choices=held)


def _range(name: str, spec: Mapping[str, Any], start: Any, *, kind: type[int] | type[float] | None) -> Parameter:
    low, high, step, log = spec.get("low"), spec.get("high"), spec.get("step"), spec.get("log", False)
    if kind is None:
        raise SettingsError(f"{name}: only int and float fields have low and high; give choices, not {dict(spec)!r}")
    for key, value in (("low", low), ("high", high), *((("step", step),) if step is not None else ())):
        if not _is_number(value, kind):
            hint = " (YAML takes 1e-4 for text; write 0.0001)" if isinstance(value, str) else ""
            raise SettingsError(f"{name}: {key} must be a finite {kind.__name__}; got {value!r}{hint}")
    assert low is not None
    assert high is not None
    if not low < high:
        raise SettingsError(f"{name}: low must be less than high; got low={low!r}, high={high!r}")
    if not isinstance(log, bool) or (log and (low <= 0 or step is not None)):
        raise SettingsError(f"{name}: log is true or false, needs low > 0 and goes without step; got {dict(spec)!r}")
    if not _is_number(start, kind) or (log and start <= 0):
        raise SettingsError(
            f"{name}: the search starts from the configured value, and {start!r} is not in any such range; "
            "configure another value, or give choices"
        )
    if step is not None and (step <= 0 or not all(_on_grid(value - low, step) for value in (high, start))):
        raise SettingsError(
            f"{name}: step must be > 0 and lead from low to high and to the configured value {start!r}; "
            f"got low={low!r}, high={high!r}, step={step!r}"
        )
    whole = Parameter(name, start, kind(low), kind(high), log, step)
    return replace(whole, low=min(whole.low, kind(start)), high=max(whole.high, kind(start)))  # type: ignore[type-var]


def _is_number(value: Any, kind: type[int] | type[float]) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def _on_grid(distance: float, step: float) -> bool:
    steps = distance / step
    return math.isfinite(steps) and abs(steps - round(steps)) < 1e-9


def _number_kind(info: FieldInfo) -> type[int] | type[float] | None:
    """int or float if that is the field's type, None allowed beside it."""
    kinds = set(get_args(info.annotation) or (info.annotation,)) - {NoneType}
    if kinds == {int}:
        return int
    return float if kinds == {float} else None


def _accepted(name: str, config: BaseModel, field: str, value: Any) -> None:
    """Check that the config would take the value.

    Raises:
        SettingsError: it would not.
    """
    try:
        type(config).model_validate({**config.model_dump(), field: value})
    except ValidationError as error:
        own = [item["msg"] for item in error.errors() if item["loc"][:1] == (field,)]
        if own:
            raise SettingsError(f"{name}: the field refuses {value!r} ({own[0]}); stay in its bounds") from error
