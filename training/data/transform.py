"""Batches changed on their way to the trainer, by threads beside it: augmentation, masks, windows.

    def crop(batch: Batch, rows: IntArray, seed: int) -> Batch:
        start = uniform(rows, seed)                      # training.hashes; (rows, 1) in [0, 1)
        ...

A transform decides each row from its number and the seed alone. Then it gives a row the same in every batch that it may
stand in: at any world size, batch size and number of threads, and after a resume.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from training.batch import Batch, batch_size
from training.data.plan import IntArray
from training.errors import DataError

Transform = Callable[[Batch, IntArray, int], Batch]
"""(batch, row numbers, seed) -> the batch with other columns if it likes, or with rows left out.

Called by several threads at once. The number of batches stays; one without rows is as good as any.

Row numbers are those of the table version, in the order of its files: (rows,) int64. The seed is one of each epoch.
"""


def one_after_the_other(first: Transform | None, second: Transform | None) -> Transform | None:
    """Both transforms as one; the first leaves no rows out."""
    if first is None or second is None:
        return first or second
    return lambda batch, rows, seed: second(first(batch, rows, seed), rows, seed)


def transformed(
    batches: Iterator[tuple[Batch, IntArray]], transform: Transform, seed: int, threads: int
) -> Generator[Batch]:
    """The batches changed, in their order; as many as there are threads are under way at once.

    Raises:
        DataError: the transform gave more rows than it got; what it raises itself is raised with a note.
    """

    def one(batch: Batch, rows: IntArray) -> Batch:
        try:
            found = transform(batch, rows, seed)
        except Exception as error:
            error.add_note(f"in the loader's transform {_name(transform)}")
            raise
        if batch_size(found) > len(rows):
            raise DataError(
                f"a transform must give as many rows as it gets, {len(rows)}, or fewer; {_name(transform)} gave "
                f"{batch_size(found)}; add rows where the table is built, or give some a higher weight"
            )
        return found

    with ThreadPoolExecutor(threads, "millrace-transform") as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for batch, rows in batches:
                waiting.append(pool.submit(one, batch, rows))
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _name(transform: Transform) -> str:
    return getattr(transform, "__qualname__", type(transform).__qualname__)
