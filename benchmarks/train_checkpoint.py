"""A 1 GB model, steps of 0.2 s, a checkpoint every 100: the share of the time that checkpoints cost, in percent.

python benchmarks/train_checkpoint.py [MEGABYTES STEPS]
"""

from __future__ import annotations

import tempfile
import time

from _train import arguments, report

import torch  # isort: skip  after _train has set the number of threads

from training.state.checkpoint import Checkpoints, State
from training.state.progress import Progress

GOAL, EVERY, STEP_S = 3.0, 100, 0.2


def run(tensors: dict[str, torch.Tensor], steps: int, checkpoints: Checkpoints | None) -> float:
    """Seconds for the steps, which keep a core busy as a training does."""
    left, right = torch.rand(256, 256), torch.rand(256, 256)
    products = 0
    deadline = time.perf_counter() + STEP_S
    while time.perf_counter() < deadline:  # how many products are a step on this machine
        left @ right
        products += 1
    started = time.perf_counter()
    for step in range(1, steps + 1):
        for _ in range(products):
            left @ right
        if checkpoints and step % EVERY == 0:
            checkpoints.save(State(Progress(step=step), tensors))
    seconds = time.perf_counter() - started
    if checkpoints:
        checkpoints.wait()
    return seconds / (products * steps)


def main() -> None:
    megabytes, steps = arguments(1000, 300)
    tensors = {f"table{n}": torch.rand(megabytes * 250_000 // 4) for n in range(4)}
    without = run(tensors, steps, None)
    with tempfile.TemporaryDirectory() as folder:
        with_them = run(tensors, steps, Checkpoints(folder, identity={}, keep=1, say=print))
        again = run(tensors, steps, None)
    plain = (without + again) / 2
    detail = {"seconds_a_product": {"without": without, "with": with_them, "without_again": again}}
    report("train_checkpoint", 100 * (with_them - plain) / plain, GOAL, "% of the time, at most", detail)


if __name__ == "__main__":
    main()
