"""Opening a table of 10,000 files and 100,000 row groups (under 5 s, 500 MB), and planning an epoch (under 1 s).

python benchmarks/loader_open.py [FILES]
"""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from _loader import FOLDER, IDS, arguments, open_snapshot, report

GROUPS, ROWS, GOAL_S = 10, 100, 5.0


def many_files(files: int) -> str:
    """A table of hard links to one file, named by a log that is written here."""
    path = FOLDER / f"files-{files}"
    if (path / "_delta_log").exists():
        return str(path)
    path.mkdir(parents=True, exist_ok=True)
    first = path / "part-00000.parquet"
    pq.write_table(pa.table({name: range(GROUPS * ROWS) for name in IDS}), first, row_group_size=ROWS)
    size, stats = first.stat().st_size, json.dumps({"numRecords": GROUPS * ROWS})
    fields = [{"name": name, "type": "long", "nullable": True, "metadata": {}} for name in IDS]
    schema = json.dumps({"type": "struct", "fields": fields})
    common = {"partitionValues": {}, "size": size, "modificationTime": 0, "dataChange": True, "stats": stats}
    metadata = {"id": "files", "format": {"provider": "parquet", "options": {}}, "schemaString": schema}
    actions: list[dict[str, object]] = [
        {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}},
        {"metaData": {**metadata, "partitionColumns": [], "configuration": {}}},
    ]
    for number in range(files):
        name = f"part-{number:05d}.parquet"
        if number:
            os.link(first, path / name)
        actions.append({"add": {"path": name, **common}})
    (path / "_delta_log").mkdir()
    (path / "_delta_log" / f"{0:020d}.json").write_text("\n".join(json.dumps(action) for action in actions))
    return str(path)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    from training.data.plan import Plan

    (files,) = arguments(10_000)
    path = many_files(files)
    open_snapshot(many_files(10))  # imports and first calls
    before = peak_mb()
    start = time.perf_counter()
    snapshot = open_snapshot(path)
    opened = time.perf_counter() - start
    start = time.perf_counter()
    blocks = list(Plan(snapshot.groups.live, 1, 8, 200_000).blocks(0, range(8)))
    planned = time.perf_counter() - start
    assert sum(block.rows for block in blocks) == snapshot.rows == files * GROUPS * ROWS
    detail = {"open_s": round(opened, 2), "plan_s": round(planned, 3), "mb": round(peak_mb() - before)}
    print(f"  {files:,} files, {len(snapshot.groups):,} row groups on {Path(path).anchor}: {detail}")
    report("loader_open", opened / GOAL_S, 1.0, "x 5 s (at most)", detail)


if __name__ == "__main__":
    main()
