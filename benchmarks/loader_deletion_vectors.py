"""A table with deletion vectors on a tenth of its rows, over the same table without: seconds for all live rows.

python benchmarks/loader_deletion_vectors.py [ROWS ROUNDS]
"""

from __future__ import annotations

import shutil

from _loader import FOLDER, WIDE, arguments, loader, open_snapshot, report, table, wide
from _loader import in_turn as timed

WINDOW, GOAL = 200_000, 1.2


def with_vectors(source: str, rows: int) -> str:
    """The same files with every tenth row deleted by Spark."""
    from cluster.session import build_session

    path = FOLDER / f"vectors-{rows}"
    if not (path / "done").exists():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(source, path)
        (path / "done").unlink()
        spark = build_session("bench-vectors", master="local[2]", driver_memory="3g", shuffle_partitions=2)
        spark.sql(f"alter table delta.`{path}` set tblproperties ('delta.enableDeletionVectors'='true')")
        spark.sql(f"delete from delta.`{path}` where i0 % 10 = 3")
        spark.stop()
        (path / "done").touch()
    return str(path)


def main() -> None:
    rows, rounds = arguments(10e6, 3)
    plain = open_snapshot(table("wide", rows, 100_000, wide))
    marked = open_snapshot(with_vectors(plain.uri, rows))
    assert all(file.vector is not None for file in marked.files)
    epochs = {"plain": iter(range(rounds)), "vectors": iter(range(rounds))}
    with loader(plain, WIDE, WINDOW) as one, loader(marked, WIDE, WINDOW) as two:

        def kept(name: str) -> int:
            batches = (one if name == "plain" else two).epoch(next(epochs[name]))
            return sum(int(((ids % 10 != 3) * ids).sum()) for ids in (batch["i0"] for batch in batches))

        seconds = timed({"plain": lambda: kept("plain"), "vectors": lambda: kept("vectors")}, rounds)
    detail = {name: round(value, 2) for name, value in seconds.items()} | {"live_share": marked.rows / plain.rows}
    report(
        "loader_deletion_vectors", seconds["vectors"] / seconds["plain"], GOAL, "x seconds without (at most)", detail
    )


if __name__ == "__main__":
    main()
