"""Init: a commented settings file for a user's own data, after a look at its columns. Needs no Spark.

millrace init fraud --data registrations.csv.gz > fraud.yaml
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jobs.column_names import COMMA, NO, YES, alike, are_numbers, called, matching, opposite
from jobs.looked_at import UTF8, Look, look_of, pictures_in
from jobs.settings import Settings
from jobs.task import Task
from jobs.tasks import TASKS
from jobs.yaml_settings import cut
from spark_udfs.event_names import KINDS, OF_SALES
from training.errors import DataError, SettingsError

PATTERNS = {
    r"\d{13}": "epoch_ms",
    r"\d{10}": "epoch_s",
    r"\d{4}-\d\d-\d\d": "yyyy-MM-dd",
    r"\d{4}-\d\d-\d\d \d\d:\d\d": "yyyy-MM-dd HH:mm",
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d": "yyyy-MM-dd HH:mm:ss",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d": "yyyy-MM-dd'T'HH:mm:ss",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)": "yyyy-MM-dd'T'HH:mm:ssXXX",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)": "yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
    r"\d\d\.\d\d\.\d{4}": "dd.MM.yyyy",
    r"\d\d\.\d\d\.\d{4} \d\d:\d\d": "dd.MM.yyyy HH:mm",
}
EVENTS = {"item_id": True, "user_id": True, "time": True, "order_id": False, "quantity": False, "price": False}
EVENTS |= {"kind": False, "rating": False, "name": False, "category": False}
RATINGS = "{kind: rating}"
NUMBERS = ("quantity", "price", "rating")
MOST_WORDS = 10  # that are asked for
MANY_PERIODS = 8  # columns of one name with a number behind
OTHER_WORD = "the other word, which the first rows do not have"
UNQUOTED = (
    "[^\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"  # what stands in no YAML
)
THOUSANDS = r"[+-]?\d{1,3}(,\d{3})+"


def text(task: str, data: str) -> str:
    """The settings file's text.

    Args:
        task: a key of TASKS.
        data: a file of this machine: csv (also gzipped), JSON lines or Parquet; or a folder of pictures.

    Raises:
        SettingsError: there is no such task.
        DataError: there is no such file, or it has no columns.
    """
    if task not in TASKS:
        raise SettingsError(f"the task must be one of {', '.join(sorted(TASKS))}; got '{cut(task)}'")
    path = Path(data)
    look = pictures_in(path) if path.is_dir() else None
    if look is None and not path.is_file():
        raise DataError(
            f"'{data}' is no file of this machine; name one of the files that hold the rows, or a folder of pictures"
        )
    look = look or look_of(path)
    if not look.columns or not (path.is_dir() or any(look.columns.values())):
        lacking = "rows" if look.columns else "columns"
        raise DataError(f"'{data}' has no {lacking}; name a file with a header and rows")
    home = f"out/{task}-{_plain_name(path)}"  # of these data: those of another file would take their place
    lines = [
        f"# Settings for the task '{task}': {TASKS[task].what}.",
        "# Go through the marks ??? first; then: millrace doctor --settings FILE, millrace run --settings FILE",
        f"# The file's columns: {_one_line(', '.join(look.columns))}",
        f"task: {task}",
        f"run_dir: {_quoted(f'{home}/run')}         # checkpoints, bundle, report",
        f"tables: {{root: {_quoted(f'{home}/tables')}}}",
    ]
    if twins := alike(list(look.columns)):
        lines.insert(3, f"# These differ in case and signs alone, rename them before: {_one_line(', '.join(twins))}")
    guessed = TASKS[task].guesses(look.columns)
    source = list(_source(TASKS[task], data, look, guessed))
    return "\n".join([*lines, *source, *_options(TASKS[task], guessed), *_rest(TASKS[task], source)]) + "\n"


def _source(task: Task, data: str, look: Look, guessed: Mapping[str, Any]) -> Iterator[str]:
    reads = task.reads(Settings(task=task.name, options=guessed))
    table = next(iter(reads))
    if table == "events":
        yield "ingest:"
        read_of_sales = set(OF_SALES) & set(reads[table])
        # What the task reads of a sale is not to be left out in silence: sums would be 0.
        told = list(
            _place(
                "  ",
                data,
                look,
                {name: needed or name in read_of_sales for name, needed in EVENTS.items()},
                NUMBERS,
                of_events=True,
            )
        )
        yield from told
        unmapped = {name for name in EVENTS if f"    # {name}: ???" in told}
        if {"kind", *OF_SALES} <= unmapped and "rating" not in unmapped:
            yield f"  constants: {RATINGS}   # each row is a rating, and no purchase"
        elif absent := [f"{name}: null" for name in OF_SALES if name in unmapped]:
            yield f"  constants: {{{', '.join(absent)}}}   # null: the shop has none; or map the column above"
        if "order_id" not in unmapped:
            yield "  # cancelled_prefix: C              # order ids that begin so are returns"
        found = None if "kind" in unmapped else matching("kind", list(look.columns))
        yield from _kinds(look.columns[found] if found else [])
        return
    yield "sources:"
    yield f"  {table}:"
    numbers = [name for name, kind in reads[table].items() if kind.startswith("double")]
    needed = {name: not kind.endswith("?") for name, kind in reads[table].items()}
    parts = _parts(look) if "series_id" in needed else None
    if parts:
        del needed["series_id"]
    has_times = called("time", list(look.columns))  # then numbered columns are what else is known of a row
    periods = None if has_times or not {"time", "quantity"} <= set(needed) else _periods(look)
    if periods:
        needed = {name: kind for name, kind in needed.items() if name not in ("time", "quantity")}
    told = list(_place("    ", data, look, needed, numbers, of_events=False))
    if periods:
        yield f"    wide: {{prefix: {_quoted(periods)}, start: ???, days: ???}}   # when the column of number 0 begins"
    if parts:
        yield f"    joined: {{series_id: {_quoted(parts)}}}   # a series is one of these in one of those"
    words = list(_words([name for name, kind in reads[table].items() if kind.startswith("boolean")], look))
    if "      time: ???" in told and task.timeless:
        read = [matching(name, list(look.columns)) for name in task.timeless]
        hashed = _quoted(read) if all(read) else "???"
        yield from (line for line in told if line.split(":")[0].strip() not in ("time", "time_format"))
        yield f"    order_by_hash_of: {hashed}   # no time was found: a hash of these says what is held out"
        yield "    hash_without_numbers: true   # near copies lie on one side"
        yield from words
        yield from _whose()
        return
    yield from told
    if "      time: ???" in told:
        yield "    # order_by_hash_of: [text]     # if rows have no time, in place of time and time_format: the columns"
        yield "    #                              # by whose hash rows are held out; not what is to be foretold"
    yield from words
    yield from _whose()


def _parts(look: Look) -> list[str] | None:
    """The columns that name a product and a branch, where a file has both and does not name series itself."""
    if re.fullmatch(r"series\W?_?(id)?", (called("series_id", list(look.columns)) or "").lower()):
        return None
    branch = called("branch", list(look.columns))
    product = called("series_id", [name for name in look.columns if name != branch])
    return [branch, product] if branch and product else None


def _periods(look: Look) -> str | None:
    """What names of columns begin with that are one number a period, where a file has many such."""
    found = [re.fullmatch(r"(.*\D)\d+", name) for name, said in look.columns.items() if are_numbers(said)]
    counted = Counter(one[1] for one in found if one)
    prefix, count = max(counted.items(), key=lambda one: one[1], default=("", 0))
    return prefix if count >= MANY_PERIODS else None


def _plain_name(path: Path) -> str:
    return re.sub("[^A-Za-z0-9_-]+", "-", path.name.split(".")[0]).strip("-") or "data"


def _whose() -> Iterator[str]:
    yield "    # persons: [user_id]           # columns with persons' ids, which erase must know; []: none"


def _kinds(said: Sequence[str]) -> Iterator[str]:
    """What the shop's own words mean, if they are not ours: to be said by who knows them."""
    words = sorted({word.strip().lower() for word in said} - {""})
    if set(words) <= set(KINDS):
        yield "  # kinds: {add_to_cart: cart}       # our kinds by the shop's own words, where there are several"
        return
    yield f"  kinds:   # words of the first rows, and maybe there are more: {', '.join(KINDS)}; null: set aside"
    yield from (f"    {_quoted(word)}: ???" for word in words)


def _words(flags: Sequence[str], look: Look) -> Iterator[str]:
    """What words of flags mean, where they are no numbers and not yes or no: to be said by who knows them."""
    unknown, turned = dict[str, list[str]](), dict[str, str]()
    for name in flags:
        columns = list(look.columns)  # the same one is taken as `_place` takes
        other = None if called(name, columns) else opposite(name, columns)
        said = look.columns.get(other or matching(name, columns) or "", ())
        words = sorted({word.strip() for word in said} - {""})
        turned[name] = "   # the column says the opposite: 0 where it says yes" if other else ""
        if other and words and not {word.lower() for word in words} - {*YES, *NO}:
            yield f"    words: {{{name}: {{{', '.join(_turned(word) for word in words)}}}}}   # the opposite"
        elif {word.lower() for word in words} - {*YES, *NO}:
            unknown[name] = words if len(words) > 1 else [*words, OTHER_WORD]
    if unknown:
        yield "    words:   # of the first rows, and maybe there are more: 1 means yes, 0 no"
    for name, words in unknown.items():
        yield f"      {name}:{turned[name]}"
        yield from (f"        {_quoted(word)}: ???" for word in words[:MOST_WORDS])
        if len(words) > MOST_WORDS:
            yield f"        # and {len(words) - MOST_WORDS} more, which are to be named too"


def _turned(word: str) -> str:
    return f"{_quoted(word)}: {int(word.lower() in NO)}"


def _place(
    indent: str, data: str, look: Look, wanted: Mapping[str, bool], numbers: Sequence[str], *, of_events: bool
) -> Iterator[str]:
    """Where the rows lie, how they are written, and which columns are ours."""
    yield f"{indent}path: {_quoted(data)}"
    yield f"{indent}format: {look.format}"
    if look.format == "csv" and look.delimiter != ",":
        yield f"{indent}delimiter: {_quoted(look.delimiter)}"
    if look.format == "csv" and any("\n" in value for values in look.columns.values() for value in values):
        yield f"{indent}multiline: true   # values hold line breaks"
    if look.encoding != UTF8:
        yield f"{indent}encoding: {look.encoding}   # its bytes are no UTF-8"
    taken: dict[str, str] = {}
    yield f"{indent}columns:"
    columns = list(look.columns)
    sure = {name: found for name in wanted if (found := called(name, columns) or opposite(name, columns))}
    for name, needed in wanted.items():
        found = sure.get(name) or matching(
            name, [one for one in columns if one not in (*taken.values(), *sure.values())]
        )
        if found and found not in taken.values():
            taken[name] = found
            some = [cut(value) for value in look.columns[found] if value][:3]
            yield f"{indent}  {name}: {_quoted(found)}   # e.g. {_one_line(', '.join(some))}"
        elif needed:
            absent = (
                f"   # if the shop has none: leave it out, and constants: {{{name}: null}}"
                if name in OF_SALES and of_events
                else ""
            )
            yield f"{indent}  {name}: ???{absent}"
        else:
            yield f"{indent}  # {name}: ???"
    said = [value for name in numbers for value in look.columns.get(taken.get(name, ""), ())]
    commas = [value.strip() for value in said if re.fullmatch(COMMA, value.strip())]
    if look.format == "csv" and any(not re.fullmatch(THOUSANDS, value) for value in commas):
        yield f'{indent}decimal: ","'
    if "time" not in wanted or taken.get("time") in look.timestamps:
        return
    pattern = _pattern([value for value in look.columns.get(taken.get("time", ""), ()) if value])
    yield f"{indent}time_format: {json.dumps(pattern) if pattern else '???'}"
    if pattern and not pattern.startswith("epoch") and not pattern.endswith("XXX"):
        yield f"{indent}time_zone: UTC   # of times that name none"


def _quoted(value: object) -> str:
    """A value as YAML has it: as JSON does, whose signs beyond 16 bits YAML would read as two."""
    return re.sub(UNQUOTED, lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))


def _one_line(text: str) -> str:
    """A text as it can stand in a comment."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _options(task: Task, guessed: Mapping[str, Any]) -> Iterator[str]:
    """The task's own settings with their defaults, or what the file's columns make likely, and what they mean."""
    if not task.options.model_fields:
        return
    yield "options:"
    for name, field in task.options.model_fields.items():
        default = guessed.get(name, field.get_default(call_default_factory=True))
        shown = list(default) if isinstance(default, tuple) else default
        mark = "guessed from the columns, correct it: " if name in guessed else ""
        yield f"  {name}: {_quoted(shown)}   # {mark}{field.description}"


def _rest(task: Task, source: Sequence[str]) -> Iterator[str]:
    yield "examples:"
    if any(RATINGS in line for line in source):
        yield "  weights: {rating: 1}      # what an event is worth, by its kind"
    elif "weights" in task.examples.model_fields:
        yield "  # weights: {purchase: 1, cart: 0.3, view: 0.1}   # default: {purchase: 1}; without sales: {view: 1}"
    if any(line.lstrip().startswith("order_by_hash_of:") for line in source):
        yield "  test_from: 2002-03-11     # of the 1,000 days from 2000-01-01 on over which a hash deals rows: a fifth"
        yield "  validation_days: 100"
    else:
        yield "  # test_from: 2025-11-10   # what comes from here on is held out; default: the last tenth of the time"
        yield "  validation_days: 30"
    suits = "".join(f", {key}: {value}" for key, value in task.suits.items())
    yield f"model: {{name: {task.model}{suits}}}"
    if task.training:
        yield "training:   # these suit some thousands of examples; of many more take fewer epochs"
        yield from (f"  {name}: {value}" for name, value in task.training.items())
    else:
        yield "training: {ranks: 2, epochs: 8}   # of fewer than 50,000 examples: batch_size: 256 too, or steps are few"
    yield "tuning: {trials: 0}         # an Optuna study of so many trials before the training"
    yield "# all settings: millrace settings"


def _pattern(values: Sequence[str]) -> str | None:
    """Spark's pattern of these times, if they have one that is common."""
    return next(
        (named for regex, named in PATTERNS.items() if values and all(re.fullmatch(regex, value) for value in values)),
        None,
    )
