"""What the loader's benchmarks share: tables made once, peers in turn, the last line."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Every peer decodes with two threads of its own; more under them would only fight for the cores.
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from run import NOTHING_MEASURED

from training.data.loader import Loader
from training.data.snapshot import Snapshot, open_snapshot
from training.schema import Column, Kind, Schema

WORKERS, BATCH = 2, 8192
IDS, NUMBERS = [f"i{k}" for k in range(8)], [f"f{k}" for k in range(13)]
WIDE = Schema(
    (
        *(Column(name, Kind.ID, "ids", 2**62) for name in IDS),
        *(Column(name, Kind.DENSE) for name in NUMBERS),
    )
)
HISTORY = Schema((Column("history", Kind.IDS, "items", 2**62),))
FOLDER = Path(tempfile.gettempdir()) / "millrace-bench"


def arguments(*defaults: float) -> list[int]:
    """Whole numbers from the command line; those that are not given are the defaults."""
    return [int(float(given)) for given in [*sys.argv[1:], *[str(d) for d in defaults][len(sys.argv) - 1 :]]]


def table(name: str, rows: int, group_rows: int, make: Callable[[np.random.Generator, int], pa.Table]) -> str:
    """A Delta table of `rows` rows in files of ten row groups, zstd; made once a machine."""
    from deltalake import WriterProperties, write_deltalake

    path = FOLDER / f"{name}-{rows}"
    done = path / "done"
    if not done.exists():
        random = np.random.default_rng(0)
        properties = WriterProperties(max_row_group_size=group_rows, compression="ZSTD")
        for start in range(0, rows, 10 * group_rows):
            part = make(random, min(10 * group_rows, rows - start))
            write_deltalake(path, part, mode="append", writer_properties=properties, target_file_size=2**40)
        done.touch()
    return str(path)


def wide(random: np.random.Generator, rows: int) -> pa.Table:
    """21 numeric columns: 8 of ids, 13 of float32."""
    ids = {name: random.integers(0, 10**6, rows) for name in IDS}
    return pa.table({**ids, **{name: random.random(rows, dtype=np.float32) for name in NUMBERS}})


def histories(random: np.random.Generator, rows: int) -> pa.Table:
    """Lists of 1 to 200 ids, 50 on average."""
    lengths = np.clip(random.geometric(1 / 50, rows), 1, 200)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = random.integers(1, 10**6, int(offsets[-1]))
    return pa.table({"history": pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids))})


def petastorms_own(snapshot: Snapshot, column: str, window: int) -> Callable[[], int] | None:
    """A column's sum by Petastorm's own reader and shuffling loader; None where its whole package does not import."""
    try:
        from petastorm import make_batch_reader
        from petastorm.pytorch import BatchedDataLoader
    except ImportError as error:
        print(f"  petastorm's own loader is left out: {error}")
        return None
    urls = [f"file://{path}" for path in files(snapshot)]

    def total() -> int:
        reader = make_batch_reader(urls, reader_pool_type="thread", workers_count=WORKERS, num_epochs=1)
        with reader, BatchedDataLoader(reader, batch_size=BATCH, shuffling_queue_capacity=window) as batches:
            return sum(int(batch[column].sum()) for batch in batches)

    return total


def files(snapshot: Snapshot) -> list[str]:
    return [f"{snapshot.uri}/{file.path}" for file in snapshot.files]


def decoded_by_pyarrow(snapshot: Snapshot, columns: list[str], total: Callable[[pa.Table], int]) -> int:
    """Row groups on two threads, no shuffle, no tensors."""

    def one(group: int) -> int:
        with pq.ParquetFile(files(snapshot)[snapshot.groups.file[group]]) as parquet:
            number = int(snapshot.groups.number[group])
            return total(parquet.read_row_group(number, columns=columns, use_threads=False))

    with ThreadPoolExecutor(WORKERS) as threads:
        return sum(threads.map(one, range(len(snapshot.groups))))


def loader(snapshot: Snapshot, schema: Schema, window: int) -> Loader:
    return Loader(snapshot, schema, batch_size=BATCH, seed=1, workers=WORKERS, shuffle_rows=window)


def in_turn(calls: Mapping[str, Callable[[], int]], rounds: int) -> dict[str, float]:
    """Middle seconds of each call, called in turn; all must give the same result."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        results = {}
        for name, call in calls.items():
            start = time.perf_counter()
            results[name] = call()
            seconds[name].append(time.perf_counter() - start)
        assert len(set(results.values())) == 1, results
    return {name: statistics.median(found) for name, found in seconds.items()}


def report(name: str, ratio: float, goal: float, unit: str, detail: dict[str, Any]) -> None:
    """The last line."""
    print(json.dumps({"name": name, "ratio": round(ratio, 3), "goal": goal, "unit": unit, "detail": detail}))


def rates(rows: int, seconds: Mapping[str, float]) -> dict[str, int]:
    found = {name: round(rows / value) for name, value in seconds.items()}
    for name, value in found.items():
        print(f"  {name:12} {value:12,} rows/s")
    return found


__all__ = ["NOTHING_MEASURED", "open_snapshot"]
