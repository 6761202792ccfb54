"""A run folder as a pipeline would leave it, with planted numbers and names that HTML must not take at their word."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from jobs.artefacts import EVALUATION, FEEDBACK, LATEST, SCORE, STAGES, TUNING, write_json

NASTY = '<script>alert("x")</script> & "MUG" <b>'
ITEMS = [
    "WHITE HANGING HEART T-LIGHT HOLDER",
    "REGENCY CAKESTAND 3 TIER",
    "JUMBO BAG RED RETROSPOT",
    "PARTY BUNTING",
    "LUNCH BAG RED RETROSPOT",
    "ASSORTED COLOUR BIRD ORNAMENT",
    "SET OF 3 CAKE TINS PANTRY DESIGN",
    "PACK OF 72 RETROSPOT CAKE CASES",
    "LUNCH BAG BLACK SKULL.",
    "NATURAL SLATE HEART CHALKBOARD",
    "HEART OF WICKER SMALL",
    NASTY,
]
RECALL = {"millrace": 0.1312, "als": 0.1004, "item_item": 0.0931, "recent_popularity": 0.0790, "popularity": 0.0381}
KS = (5, 10, 20, 50)


def metrics(recall: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for k in KS:
        grown = recall * math.log(k + 1) / math.log(21)
        for name, factor in (("recall", 1), ("ndcg", 0.97), ("mrr", 1.4), ("hit_rate", 4.1), ("map", 0.4)):
            value = min(1.0, grown * factor)
            found[f"{name}_at_{k}"] = {"value": value, "low": value * 0.92, "high": value * 1.08}
        found[f"coverage_at_{k}"] = {"value": min(1.0, recall * 4)}
        found[f"novelty_at_{k}"] = {"value": 8 + 20 * recall}
    return found


def evaluation() -> dict[str, Any]:
    falling = [1000 * 0.6**tenth for tenth in range(10)]
    return {
        "table": "examples",
        "version": 3,
        "bundle": "two_tower-0123456789ab",
        "test_from": "2011-11-10T00:00:00",
        "ks": list(KS),
        "protocols": {
            "new": {
                "users": 1264,
                "what": "What the customer had never bought; items known before the cut.",
                "models": {name: metrics(recall) for name, recall in RECALL.items()},
                "differences": {
                    "als": {"recall_at_20": {"value": 0.03, "low": 0.02, "high": 0.04}},
                    "item_item": {
                        "recall_at_20": {"value": 0.03, "low": -0.01, "high": 0.07},
                        "ndcg_at_20": {"value": -0.02, "low": -0.03, "high": -0.01},
                    },
                },
            },
            "any": {
                "users": 1374,
                "what": "Whatever the customer bought, repeats included.",
                "models": {name: metrics(recall * 2) for name, recall in RECALL.items()},
            },
        },
        "popularity_of_recommended": {
            "bought": falling,
            "recommended": {
                "millrace": [700 * 0.68**tenth for tenth in range(10)],
                "als": [900 * 0.5**tenth for tenth in range(10)],
                "popularity": [1000.0] + [0.0] * 9,
            },
        },
        "examples": [
            {
                "user_id": str(17850 + number),
                "bought": [ITEMS[(number + at) % 12] for at in range(6)],
                "recommended": [ITEMS[(number * 5 + at) % 12] for at in range(10)],
                "then_bought": [ITEMS[(number * 5 + at * 3) % 12] for at in range(3)],
            }
            for number in range(10)
        ],
    }


def tuning() -> dict[str, Any]:
    trials = []
    for number in range(16):
        value = 0.10 + 0.03 * math.sin(number * 2.3) + 0.001 * number
        state = "fail" if number == 5 else "pruned" if number % 4 == 3 else "complete"
        trials.append(
            {
                "number": number,
                "state": state,
                "value": None if state == "fail" else value,
                "params": {"model.dim": 32 * (1 + number % 3), "training.learning_rate": 0.001 * 1.3**number},
                "epochs": [] if state == "fail" else [value * 0.8, value],
                "seconds": 8.5 + number % 3,
                "error": "LaunchError: rank 1 of 2 was killed" if state == "fail" else None,
                "is_start": number == 0,
            }
        )
    complete = [trial for trial in trials if trial["state"] == "complete"]
    return {
        "study": "recommend-two_tower",
        "metric": "recall_at_20",
        "fingerprint": {},
        "planned": 16,
        "counts": {"complete": len(complete), "pruned": 4, "fail": 1},
        "trials": trials,
        "best": max(complete, key=lambda trial: trial["value"]),
        "start": trials[0],
        "importances": {"training.learning_rate": 0.7, "model.dim": 0.3},
    }


def record() -> list[dict[str, Any]]:
    lines = []
    for step in range(20, 620, 20):
        loss = 7.8 - 1.1 * math.log(1 + step / 60) + 0.05 * math.sin(step)
        waits = {"wait_share": 0.02, "comm_share": 0.11}
        values = {"loss": loss, **waits}
        lines.append({"kind": "progress", "step": step, "epoch": step // 100, "message": "", "values": values})
        if step % 100 == 0:
            recall = 0.13 - 0.09 * math.exp(-step / 150)
            values = {
                "loss": loss + 0.1,
                "recall_at_20": recall,
                "ndcg_at_20": recall * 1.05,
                "hit_rate_at_20": recall * 3,
                "loader_rows_per_s": 123_456.0,
                "loader_bytes_per_s": 7_890_000.0,
            }
            lines.append({"kind": "epoch", "step": step, "epoch": step // 100 - 1, "message": "", "values": values})
    return [{**line, "time_s": 1.0} for line in lines]


def feedback() -> dict[str, Any]:
    later = "trained a week later"
    names = ("trained before", f"{later}, had nothing been shown", f"{later}, with what the lists sold")
    rounds = [
        {
            "name": name,
            "bundle": f"two_tower-{at}",
            "shown": 40_000,
            "purchased": 1400 + 150 * at,
            "true_value": 0.7 + at,
        }
        for at, name in enumerate(names)
    ]
    return {"shown": 40_000, "ignored": 33_358, "viewed": 5_210, "purchased": 1_432, "rounds": rounds}


def leave_run(run_dir: Path) -> None:
    """Write all of the artefacts."""
    write_json(run_dir, EVALUATION, evaluation())
    write_json(run_dir, TUNING, tuning())
    write_json(run_dir, FEEDBACK, feedback())
    summary = {"rows": 328_397, "rare_labels": {"negatives_kept": 0.1, "focal": 2.0}}
    write_json(run_dir, LATEST, {"bundle": "two_tower-0123456789ab", "identity": "0", "summary": summary})
    write_json(
        run_dir, SCORE, {"users": 4_339, "rows": 86_780, "fallback_rows": 12, "k": 20, "table": "recommendations"}
    )
    stages = {"ingest": 21.4, "build_examples": 33.0, "tune": 148.2, "train": 61.9, "evaluate": 70.3, "score": 24.8}
    entries = [{"stage": stage, "seconds": seconds, "summary": {}} for stage, seconds in stages.items()]
    write_json(run_dir, STAGES, entries)
    (run_dir / "record.jsonl").write_text("".join(json.dumps(line) + "\n" for line in record()))
