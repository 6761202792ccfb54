"""What is wrong with settings, a line each: the key, the value cut to what a person reads, and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from jobs.yaml_settings import cut, shown
from training.configs import CONFIGS
from training.masking import masked

# Keys whose values are not repeated; "user" and "key" alone are names of ours.
_HIDDEN = re.compile("pass|pwd|secret|token|credential|auth|api.?key|access.?key|private", re.IGNORECASE)
LONGEST = 300  # characters of one reason
MARK = "???"  # stands in what `millrace init` writes for what it cannot know


def problems(
    error: ValidationError, settings: type[BaseModel], values: Mapping[str, Any], own: Mapping[str, type[BaseModel]]
) -> list[str]:
    """A line for each thing that pydantic found.

    Args:
        error: what it raised.
        settings: the class of the whole.
        values: what was checked; names the model, whose keys may be meant.
        own: the classes of the sections that are the task's own.
    """
    found = [item for item in error.errors(include_url=False) if item["input"] != MARK]
    return [_explain(item, settings, values, own) for item in found]


def marks(value: Any, place: str = "") -> Iterator[str]:
    """A line for each mark that is left of what `millrace init` wrote."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from marks(inner, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from marks(inner, f"{place}.{number}")
    elif value == MARK:
        yield f"{cut(place)}: {MARK} stands for what only you know: write it, or take the line out"


def _explain(
    item: Any, settings: type[BaseModel], values: Mapping[str, Any], own: Mapping[str, type[BaseModel]]
) -> str:
    place = cut(".".join(str(part) for part in item["loc"])) or "settings"
    if item["type"] == "extra_forbidden":
        return f"{place}: unknown key (value {_value(item)}); {_did_you_mean(item['loc'], settings, values, own)}"
    reason = cut(item["msg"].removeprefix("Value error, "), LONGEST)
    whole = isinstance(item["input"], Mapping | BaseModel)  # a section: the reason names what is wrong in it
    return f"{place}: {reason}" if whole else f"{place}: {reason} (value {_value(item)})"


def _value(item: Any) -> str:
    """The value as a person wrote it, but for what may be a password."""
    value, names = item["input"], [str(part) for part in item["loc"]]
    if any(_HIDDEN.search(name) for name in [*names[-1:], *_names_in(value)]):
        return "not shown"
    return masked(shown(value))


def _names_in(value: Any) -> Iterator[str]:
    """The keys of a value and of those in it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _names_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names_in(inner)


def _did_you_mean(
    location: tuple[str | int, ...],
    settings: type[BaseModel],
    values: Mapping[str, Any],
    own: Mapping[str, type[BaseModel]],
) -> str:
    section: Any = settings
    for part in location[:-1]:
        if isinstance(part, int):  # a section of a list of them
            section = get_args(section)[0]
        elif get_origin(section) is dict:  # one of those by name
            section = get_args(section)[1]
        elif part == "model":
            section = CONFIGS[values["model"]["name"]]
        else:
            section = own[part] if part in own else section.model_fields[part].annotation
            if type(None) in get_args(section):  # a section that may be left out
                section = get_args(section)[0]
    known = sorted(section.model_fields)
    theirs = _tasks_with(location)
    if theirs:
        return f"it is for the task {' or '.join(theirs)}"
    if not known:
        return "this task has none"
    close = difflib.get_close_matches(str(location[-1])[:LONGEST], known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"


def _tasks_with(location: tuple[str | int, ...]) -> list[str]:
    """The tasks whose own section has a key."""
    from jobs.tasks import TASKS

    held = {task.name: task.sections.get(str(location[0])) for task in TASKS.values()}
    return [
        name for name, section in held.items() if section and len(location) == 2 and location[1] in section.model_fields
    ]
