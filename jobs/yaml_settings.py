"""YAML as settings want it: the core of YAML 1.2, each key once, bounded in size, and one line for what is wrong.

YAML 1.1, which PyYAML reads, takes `90:00` for 5400, `010` for 8 and `no` for false, and fails at 2025-02-30. Here
digits are a decimal number, true and false the only truth values, and all else is a string; a field that wants a time
reads it from the string.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml

from training.errors import SettingsError
from training.masking import masked

MAX_CHARACTERS = 1_000_000
MAX_DEPTH = 30
MAX_NODES = 20_000  # aliases counted as what they stand for
_LOOKED_AT = 5_000  # characters of a text in which secrets are looked for; no more than these are shown
_MAX_DIGITS = 30  # longer numbers stay text, which a field for numbers refuses

_Events = yaml.ScalarEvent | yaml.AliasEvent | yaml.CollectionStartEvent


def read_yaml(text: str, name: str) -> Any:
    """The value of one YAML document.

    Args:
        text: the document.
        name: of what is read, for the error.

    Raises:
        SettingsError: it is no YAML, or breaks a bound.
    """
    if len(text) > MAX_CHARACTERS:
        raise SettingsError(f"{name} must have at most {MAX_CHARACTERS:,} characters; it has {len(text):,}")
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Core)  # a SafeLoader with fewer types
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{name} is not YAML that settings take{where}: {cut(str(error.problem), 300)}") from error
    except (yaml.YAMLError, ValueError, KeyError) as error:  # the last two: a value that its own tag does not fit
        raise SettingsError(f"{name} is not YAML: {cut(str(error), 300)}") from error


def cut(text: str, longest: int = 80) -> str:
    """The text without secrets, or its beginning and how long it is."""
    begins = masked(text[:_LOOKED_AT])
    return begins if len(begins) <= longest else f"{begins[:longest]}... ({len(text):,} characters)"


def shown(value: Any) -> str:
    """A value in an error's words, cut to what a person reads."""
    return cut(repr(value))


def _check_size(text: str) -> None:
    """Follow the events, before anything is built: how deep, and how much once aliases are replaced.

    Raises:
        yaml.MarkedYAMLError: past a bound, or an alias of what it is part of.
    """
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []  # anchor, and nodes before it
    nodes = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            if anchor is not None:
                sizes[anchor] = nodes - before
        elif isinstance(event, _Events):
            nodes += _stands_for(event, sizes, open_) if isinstance(event, yaml.AliasEvent) else 1
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append((event.anchor, nodes - 1))
            elif isinstance(event, yaml.ScalarEvent) and event.anchor is not None:
                sizes[event.anchor] = 1
            if nodes > MAX_NODES or len(open_) > MAX_DEPTH:
                raise _problem(
                    f"at most {MAX_NODES:,} values (aliases as what they stand for), at most {MAX_DEPTH} deep; "
                    "write less of it, or fewer aliases",
                    event.start_mark,
                )


def _stands_for(alias: yaml.AliasEvent, sizes: dict[str, int], open_: list[tuple[str | None, int]]) -> int:
    """Values that an alias repeats: without end where it is part of what it names; one where nothing has its name."""
    name = str(alias.anchor)
    return MAX_NODES if name in {anchor for anchor, _ in open_} else sizes.get(name, 1)


def _problem(text: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=mark)


class _Core(yaml.SafeLoader):
    """YAML 1.2's core types, and each key of a mapping once."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  declared so by PyYAML
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key must be a name", key.start_mark)
            if key.value in seen:
                raise _problem(f"key '{cut(key.value)}' is there twice; keep one of them", key.start_mark)
            seen.add(key.value)
        return {str(key.value): self.construct_object(value, deep=deep) for key, value in node.value}

    def integer(self, node: yaml.ScalarNode) -> int | str:
        text = str(node.value)
        return text if len(text) > _MAX_DIGITS else int(text)

    def number(self, node: yaml.ScalarNode) -> float:
        text = str(node.value).lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


def _fill() -> None:
    """What a plain scalar may be, tried in this order, and what each tag becomes."""
    resolvers = (
        ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
        ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
        ("int", r"[-+]?[0-9]+", list("-+0123456789")),
        ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
         list("-+.0123456789")),
    )  # fmt: skip
    for tag, pattern, first in resolvers:
        _Core.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"^(?:{pattern})$"), first)
    made: dict[str, Any] = {
        "null": yaml.SafeLoader.construct_yaml_null,
        "bool": yaml.SafeLoader.construct_yaml_bool,
        "int": _Core.integer,
        "float": _Core.number,
        "str": yaml.SafeLoader.construct_yaml_str,
        "seq": yaml.SafeLoader.construct_yaml_seq,
        "map": yaml.SafeLoader.construct_yaml_map,
    }
    for tag, construct in made.items():
        _Core.add_constructor(f"tag:yaml.org,2002:{tag}", construct)
    _Core.yaml_constructors[None] = yaml.SafeLoader.construct_undefined  # any other tag


_fill()
