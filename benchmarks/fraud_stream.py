"""Cases answered as they come, 1,000 a second on two cores: seconds from a case's own time to its row with an answer,
the 95th percentile; none lost, none twice.

python benchmarks/fraud_stream.py [CASES_A_SECOND SECONDS HISTORY]
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _loader import arguments, report

import numpy as np  # isort: skip  after _loader has set the number of threads
import torch
from pyspark.sql import functions as F

from cluster.session import build_session
from jobs import build_examples
from jobs.artefacts import LATEST, write_json
from jobs.settings import load_settings
from jobs.tables import Tables
from jobs.tasks import TASKS
from training.models import MODELS
from training.state.publish import write_bundle

GOAL, EVERY_S, CARDS, TERMINALS, LABELS, WARM_S = 3.0, 0.25, 50_000, 10_000, 0.02, 30.0
SETTINGS = """
task: fraud
run_dir: {folder}/run
tables: {{root: {folder}/tables}}
spark: {{master: "local[2]", driver_memory: 3g, shuffle_partitions: 2}}
sources: {{cases: {{path: history, time_format: epoch_ms}}}}
options:
  entities: [card, terminal]
  numbers: [amount]
  means: [amount]
  has: [case_id, label_time]
  label_delay_days: 7
examples: {{validation_days: 3}}
model: {{name: row_mlp}}
stream: {{path: {folder}/incoming, format: json}}
"""


def main() -> None:
    rate, seconds, history = arguments(1_000, 120, 200_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "incoming").mkdir()
        (folder / "settings.yaml").write_text(SETTINGS.format(folder=folder))
        prepared(folder, history)
        command = [sys.executable, "-m", "jobs.stream", "--settings", str(folder / "settings.yaml")]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        stream = subprocess.Popen(command, env=environment)
        sent = feed(folder / "incoming", rate, seconds + WARM_S)
        wait_until_answered(folder, stream)
        stream.send_signal(signal.SIGINT)
        stream.wait(60)
        latencies, rows = answered(folder, sent)
    measured = latencies[round(WARM_S * rate) :]
    p50, p95, p99 = (float(np.percentile(measured, share)) for share in (50, 95, 99))
    detail = {
        "p50_s": round(p50, 2), "p99_s": round(p99, 2), "max_s": round(float(measured.max()), 2), "rate": rate,
        "cases": len(sent), "history": history, "lost": len(sent) - len({*rows}), "twice": len(rows) - len({*rows}),
    }  # fmt: skip
    assert not detail["lost"], detail
    assert not detail["twice"], detail
    report("fraud_stream", p95, GOAL, "seconds from a case to its answer, the 95th percentile (at most)", detail)


def prepared(folder: Path, history: int) -> None:
    """A history of thirty days, built, and an untrained bundle, which takes as long to ask."""
    spark = build_session("bench-fraud-stream", master="local[2]", driver_memory="3g", shuffle_partitions=2)
    settings = load_settings(folder / "settings.yaml")
    begin = int(time.time() - 30 * 86_400)

    def pick(name: str, below: int) -> Any:
        return F.pmod(F.xxhash64("id", F.lit(name)), F.lit(below))

    time_us = (F.lit(begin) + pick("second", 30 * 86_400)) * 1_000_000
    cases = spark.range(history).select(
        F.format_string("h%d", "id").alias("case_id"),
        F.timestamp_micros(time_us).alias("time"),
        F.when(pick("known", 2) == 0, pick("fraud", 100) == 0).alias("label"),
        F.timestamp_micros(time_us + 86_400_000_000).alias("label_time"),
        F.format_string("c%d", pick("card", CARDS)).alias("card"),
        F.format_string("t%d", pick("terminal", TERMINALS)).alias("terminal"),
        (pick("amount", 10_000) / 100).alias("amount"),
    )
    Tables(spark, settings.tables.root).write("cases", cases, mode="overwrite", job="ingest", inputs={})
    build_examples.run(settings, spark)
    schema, kind = TASKS["fraud"].schema({}, settings), MODELS["row_mlp"]
    config = {key: value for key, value in settings.model.items() if key != "name"}
    torch.manual_seed(0)
    made = write_bundle(
        Path(settings.run_dir) / "bundles", model_name="row_mlp", config=config, schema=schema,
        tensors=kind(kind.Config.parse(config), schema).state_dict(), provenance={}, settings={}, metrics={},
    )  # fmt: skip
    write_json(settings.run_dir, LATEST, {"bundle": made.name, "identity": "bench", "summary": {}})
    spark.stop()


def feed(incoming: Path, rate: int, seconds: float) -> dict[str, float]:
    """Files of cases that have just happened, one each quarter of a second once the stream is there; some get labels.

    Returns:
        When each case happened, by its id.
    """
    rng, sent, each = random.Random(0), dict[str, float](), round(rate * EVERY_S)
    rows = dict[str, dict[str, Any]]()
    checkpoint = incoming.parent / "run" / "stream" / "checkpoint" / "metadata"
    while not checkpoint.exists():
        time.sleep(0.5)
    started = time.time()
    for number in range(round(seconds / EVERY_S)):
        until = started + (number + 1) * EVERY_S
        time.sleep(max(0.0, until - time.time()))
        lines = []
        for place in range(each):
            at = until - EVERY_S * (1 - (place + 1) / each)  # spread over the quarter of a second that has gone
            row = {
                "case_id": f"s{len(sent)}", "time": round(at * 1_000), "card": f"c{rng.randrange(CARDS)}",
                "terminal": f"t{rng.randrange(TERMINALS)}", "amount": round(rng.random() * 100, 2),
            }  # fmt: skip
            sent[row["case_id"]] = at
            rows[row["case_id"]] = row
            lines.append(json.dumps(row))
        for old in rng.sample(sorted(rows), round(LABELS * each)) if number > 40 else ():
            lines.append(json.dumps({**rows.pop(old), "label": True, "label_time": round(time.time() * 1_000)}))
        (incoming / f".{number}").write_text("\n".join(lines) + "\n")
        (incoming / f".{number}").rename(incoming / f"{number:06}.json")
    return sent


def wait_until_answered(folder: Path, stream: subprocess.Popen[bytes]) -> None:
    """Until no batch has been added for a minute: where there are too many cases, a batch takes nearly as long."""
    while stream.poll() is None:
        held = commits(folder)
        if held and time.time() - held[-1][0] > 60:
            return
        time.sleep(1)


def commits(folder: Path) -> list[tuple[float, dict[str, Any]]]:
    """When each batch's rows were there to read, and what its commit says."""
    found = []
    for file in sorted((folder / "tables" / "fraud_live" / "_delta_log").glob("*.json")):
        for line in file.read_text().splitlines():
            told = json.loads(line).get("commitInfo", {}).get("userMetadata")
            if told and "batch" in (inputs := json.loads(told)["inputs"]):
                found.append((file.stat().st_mtime, {**inputs, "rows": rows_added(file)}))
    return found


def rows_added(file: Path) -> int:
    added = [json.loads(line)["add"] for line in file.read_text().splitlines() if line.startswith('{"add"')]
    return sum(json.loads(one["stats"])["numRecords"] for one in added)


def answered(folder: Path, sent: dict[str, float]) -> tuple[Any, list[str]]:
    """Seconds from each case to its answer, in the order in which they happened, and the cases of all answers."""
    from deltalake import DeltaTable

    there = {inputs["batch"]: when for when, inputs in commits(folder)}
    table = DeltaTable(str(folder / "tables" / "fraud_live")).to_pyarrow_table(columns=["case_id", "batch", "p"])
    rows = [row for row in table.to_pylist() if row["p"] is not None]
    seconds = {row["case_id"]: there[row["batch"]] - sent[row["case_id"]] for row in rows}
    return np.array([seconds[case] for case in sent if case in seconds]), [row["case_id"] for row in rows]


if __name__ == "__main__":
    main()
