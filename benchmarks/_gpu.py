"""What the GPU's benchmarks share: a GPU or nothing measured, sizes by name, synchronised seconds in turn.

`--smoke` runs a tiny size on the CPU: it shows that the benchmark works and that the peers agree, and prints no figure.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from run import NOTHING_MEASURED


def arguments(text: str, sizes: Mapping[str, tuple[int, int]]) -> tuple[argparse.Namespace, torch.device]:
    """The sizes from the command line, and the device: the GPU, or with `--smoke` the CPU.

    Args:
        text: what the benchmark measures.
        sizes: (on a GPU, in a smoke run) by name, the values that are not given.
    """
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--smoke", action="store_true", help="a tiny size on the CPU; prints no figure")
    for name in sizes:
        parser.add_argument(f"--{name}", type=int)
    given = parser.parse_args()
    if not given.smoke and not torch.cuda.is_available():
        print("no GPU: nothing measured (--smoke runs a tiny size on the CPU, without a figure)")
        sys.exit(NOTHING_MEASURED)
    for name, values in sizes.items():
        if getattr(given, name) is None:
            setattr(given, name, values[given.smoke])
    return given, torch.device("cpu" if given.smoke else "cuda")


def in_turn(calls: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Middle seconds of each call, in turn, to the end of what it started on the device; the first is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            _wait(device)
            started = time.perf_counter()
            call()
            _wait(device)
            taken[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def report(name: str, device: torch.device, ratio: float, goal: float, unit: str, detail: Mapping[str, object]) -> None:
    """The last line; after a smoke run it says that nothing was measured."""
    if device.type != "cuda":
        print(f"{name}: smoke run on the CPU ended well and the peers agree; no GPU: nothing measured")
        return
    held = {"gpu": torch.cuda.get_device_name(device), **detail}
    print(json.dumps({"name": name, "ratio": round(ratio, 3), "goal": goal, "unit": unit, "detail": held}))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
