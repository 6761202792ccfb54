"""The shop's answers as replies are made from, the same ones in a job and in a terminal. No Spark."""

from __future__ import annotations

from collections.abc import Iterable

from spark_udfs.knowledge import Known, id_of
from training.errors import DataError


def known_answers(rows: Iterable[tuple[str | None, str, str]], most: int) -> list[Known]:
    """Answers, each once, in an order that does not depend on where they lie.

    Args:
        rows: (answer_id, intent, answer); without an id what an answer holds names it. No more than `most` + 1 need be
            given.
        most: `options.most_answers`.

    Raises:
        DataError: there are more answers than a worker may hold.
    """
    made = {Known(own or id_of(intent, text), intent, text) for own, intent, text in rows}
    if len(made) > most:
        raise DataError(
            f"answers must be options.most_answers={most:,} at most, as each worker holds them all; there are more: "
            "leave out those that nobody uses, or raise it"
        )
    return sorted(made)
