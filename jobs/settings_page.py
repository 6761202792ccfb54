"""The reference of all settings, made from their fields: `millrace settings` prints it, docs/settings.md holds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.settings import Settings
from jobs.settings_sections import OWN
from jobs.settings_sources import TableSource, Wide
from jobs.tasks import TASKS
from training.configs import CONFIGS

HEAD = """# Settings

Made by `millrace settings` from the fields themselves; a test keeps it so. In a file a setting stands in its section,
on the command line it is `section.key=value`.

A file is the core of YAML 1.2: digits are a decimal number, `true` and `false` the only truth values, all else is text.
A setting that wants a time reads it from the text, so `!!timestamp` is refused, as any tag beyond the core's is: leave
it out. `<<` is no merge key but a setting that nobody knows: write its keys out, or repeat a whole value by `&name` and
`*name`.
"""


def page() -> str:
    """The whole reference as Markdown."""
    lone = {name: field for name, field in Settings.model_fields.items() if _section(field) is None and name != "model"}
    parts = [HEAD, "## The pipeline\n", *_table(lone)]
    for name, field in Settings.model_fields.items():
        section = _section(field)
        if name == "sources":
            parts += ["\n## sources.TABLE\n", f"{_first_line(TableSource)}\n", *_table(TableSource.model_fields)]
            parts += ["\n## sources.TABLE.wide\n", f"{_first_line(Wide)}\n", *_table(Wide.model_fields)]
        if section is not None and section.model_fields:
            parts += [f"\n## {name}\n", f"{_first_line(section)}\n", *_table(section.model_fields)]
            parts += _listed(name, section)
            if any(_section(inner) for inner in section.model_fields.values()):
                parts += _inner(name, section.model_fields)
        if name in OWN:
            parts += _of_tasks(name)
        if name == "model":
            for model, config in CONFIGS.items():
                parts += [f"\n## model, where its name is {model}\n", *_table(config.model_fields)]
    return "\n".join(parts) + "\n"


def _of_tasks(name: str) -> Iterator[str]:
    """What a task's section has beside what it has in all tasks."""
    for task in TASKS.values():
        section = task.sections[name]
        if own := {key: field for key, field in section.model_fields.items() if key not in OWN[name].model_fields}:
            yield f"\n## {name}, where the task is {task.name}\n"
            yield f"{_first_line(section)}\n"
            yield from _table(own)
            yield from _inner(name, own)


def _inner(name: str, fields: dict[str, FieldInfo]) -> Iterator[str]:
    """The sections that fields are, one after the other, and those in them."""
    places: dict[type[BaseModel], list[str]] = {}
    for key, field in fields.items():
        if (kind := _section_or_none(field)) is not None:
            places.setdefault(kind, []).append(f"{name}.{key}")
    for kind, listed in places.items():
        yield f"\n### {', '.join(listed)}\n"
        yield f"{_first_line(kind)}\n"
        yield from _table(kind.model_fields)
        yield from _inner(listed[0], kind.model_fields)


def _listed(name: str, section: type[BaseModel]) -> Iterator[str]:
    """What the sections of a list have beside or other than the section that holds the list."""
    above = {other: field.description for other, field in section.model_fields.items()}
    places: dict[type[BaseModel], list[str]] = {}
    for inner, field in section.model_fields.items():
        for kind in get_args(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                places.setdefault(kind, []).append(f"{name}.{inner}")
    for kind, listed in places.items():
        own = {other: held for other, held in kind.model_fields.items() if held.description != above.get(other)}
        if own:
            others = ", ".join(f"`{other}`" for other in kind.model_fields if other not in own)
            yield f"\n### each of {' and of '.join(listed)}\n"
            yield f"{_first_line(kind)} It has {others} as above, and:\n"
            yield from _table(own)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _section_or_none(field: FieldInfo) -> type[BaseModel] | None:
    """The section that a field is, where it is set."""
    kinds = (field.annotation, *get_args(field.annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]


def _table(fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield "| setting | default | |"
    yield "|---|---|---|"
    for name, field in fields.items():
        choices = f"; one of {', '.join(map(str, found))}" if (found := _choices(field.annotation)) else ""
        text = f"{field.description or ''}{choices}".replace("|", "\\|").replace("\n", " ")
        yield f"| `{name}` | {_default(field)} | {text} |"


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be set"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ("", {}, ()):
        return "none"
    if isinstance(value, BaseModel):
        return "its own"
    shown = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return f"`{shown.lower() if isinstance(value, bool) else shown}`"
