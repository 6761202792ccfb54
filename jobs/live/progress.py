"""How far a stream is, in one file: what decided the batch that it was in, so that it is answered the same again."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

from jobs.artefacts import STREAM, read_json, write_json
from training.errors import SettingsError, TableError

FOLDER = "stream"


class Progress:
    """A stream's file, read and written.

    Attributes:
        held: `stream` (its id), `bundle` (that answers) and `limit` (of alarms); `history`: the time of the last case
            of the history when that was taken up first; `kept`: the last batch whose rows are in the tables of what is
            kept, with their versions, the settings by which they were made, and who was `erased` by then; `shares`: how
            often the history says a column, and `tally`: what rows say of late (tally.py); `after_version`: the version
            of the Delta table that is followed at which the history was read (null: it is of another); `query`: the id
            of Spark's checkpoint; `batch`: the newest one, with `seen` (the stream's clock before it), `now` (the wall
            clock then), and `after` (the stream's clock after it) once its rows are in.
    """

    def __init__(self, run_dir: str) -> None:
        self._folder = Path(run_dir) / FOLDER
        found: dict[str, Any] | None = read_json(self._folder, STREAM)
        self.is_new = found is None
        self.held: dict[str, Any] = found or {"stream": uuid.uuid4().hex}

    @property
    def folder(self) -> Path:
        """The stream's own."""
        return self._folder

    @property
    def next(self) -> int:
        """The first batch whose rows may not be in the table."""
        batch = self.held.get("batch")
        if batch is None:
            return 0
        return int(batch["number"]) + ("after" in batch)

    @property
    def seen(self) -> int | None:
        """The stream's clock as of all batches that are in."""
        batch, kept = self.held.get("batch"), self.held.get("kept", {"seen": None})
        seen: int | None = kept["seen"] if batch is None else batch.get("after", batch["seen"])
        return seen

    @property
    def checkpoint(self) -> Path:
        """Spark's own folder of the stream."""
        return (self._folder / "checkpoint").resolve()

    def _query(self) -> str | None:
        """The id in Spark's checkpoint."""
        held = self.checkpoint / "metadata"
        return str(json.loads(held.read_text())["id"]) if held.is_file() else None

    def refuse_other(self) -> None:
        """See that Spark's checkpoint is this stream's: a new one would begin with all that ever came.

        Raises:
            TableError: it is gone, or another's.
        """
        wanted, found = self.held.get("query"), self._query()
        if wanted is not None and found != wanted:
            raise TableError(
                f"the stream at '{self._folder}' goes on from Spark's checkpoint {wanted}, and '{self.checkpoint}' has "
                f"{found or 'none'}: put it back, or remove the folder and the stream's tables to begin anew"
            )

    def refuse_other_settings(self, settings: dict[str, Any]) -> None:
        """See that what is kept was made by the same settings; cases may come less late than they might.

        Raises:
            SettingsError: it was made by others, and would not be what a batch job finds.
        """
        made: dict[str, Any] = self.held["kept"]["settings"]
        others = [
            f"{name} {made[name]} and not {value}"
            for name, value in settings.items()
            if (value > made[name] if name == "late_hours" else value != made[name])
        ]
        if others:
            raise SettingsError(
                f"what the stream at '{self._folder}' keeps of the past was made with {', '.join(others)}: put that "
                "back, or rename this folder and the folders of the stream's tables to begin a new stream"
            )

    def say(self, **values: Any) -> None:
        """Keep values; whole or not at all."""
        self.held |= values
        write_json(self._folder, STREAM, self.held)

    def is_begun(self, number: int) -> bool:
        """Whether a batch was begun before."""
        return "batch" in self.held and bool(self.held["batch"]["number"] == number)

    def begin(self, number: int) -> dict[str, Any] | None:
        """What decides a batch: the same where it is begun again; None: its rows are in.

        Raises:
            TableError: it is none of those that this stream comes to next: Spark's checkpoint is another stream's.
        """
        batch: dict[str, Any] | None = self.held.get("batch")
        if batch is not None and batch["number"] == number:
            return None if "after" in batch else batch
        if number != self.next:
            raise TableError(
                f"the stream at '{self._folder}' comes to batch {self.next}, and its checkpoint to batch {number}: one "
                "of them was removed, or is another stream's; put both back, or remove the folder and the stream's "
                "tables to begin anew"
            )
        begun = {"number": number, "seen": self.seen, "now": time.time_ns() // 1_000}
        self.say(batch=begun, query=self._query())
        return begun

    def end(self, after: int | None, tally: dict[str, Any]) -> None:
        """The batch's rows are in."""
        self.say(batch={**self.held["batch"], "after": after}, tally=tally)
