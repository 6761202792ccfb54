"""Launches on a cluster of two real executors, of which something is lost; prints what happened as one JSON line.

python -m tests.cluster.lose_executor FOLDER LAUNCHER FAULT
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, cast

import pyspark

from cluster.job import Launcher
from cluster.launch import launch
from cluster.session import build_session
from tests.cluster import lineage


def main(folder: str, launcher: str, kind: str) -> None:
    conf = {
        "spark.executorEnv.PYTHONPATH": str(Path.cwd()),
        "spark.executorEnv.OMP_NUM_THREADS": "1",
        "spark.executor.cores": "1",
        "spark.executor.memory": "512m",
        "spark.python.worker.reuse": "false",
    }
    spark = build_session("lose-executor", master="local-cluster[2,1,512]", driver_memory="1g", conf=conf)
    run, mark = Path(folder) / "run", Path(folder) / "mark"
    spec: dict[str, Any] = {"table": lineage.make_table(Path(folder) / "table"), "folder": str(run)}
    if kind != "none":
        spec["fault"] = {"kind": kind, "rank": 1, "step": 13, "mark": str(mark)}
    lines: list[str] = []
    times: dict[str, float] = {}

    def log(line: str) -> None:
        print(f"{time.time():.1f} {line}", file=sys.stderr, flush=True)
        if "starting all 2 ranks again" in line:
            times["noticed"] = time.time()
        lines.append(line)

    result = launch(
        "tests.cluster.lineage:train",
        spec,
        ranks=2,
        launcher=cast(Launcher, launcher),
        restarts=2,
        timeout_s=240,
        stall_s=30,
        log=log,
    )
    noticed_s = times["noticed"] - float(mark.read_text()) if "noticed" in times else None
    print(json.dumps({"result": result, "lines": lines, "noticed_s": noticed_s, **lineage.seen_once(run)}))
    work = Path(pyspark.__file__).parent / "work" / spark.sparkContext.applicationId
    spark.stop()
    shutil.rmtree(work, ignore_errors=True)  # where local-cluster's workers put their files
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
