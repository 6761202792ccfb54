"""Prove that the installed Horovod works: two processes on this machine average a tensor. Exits non-zero if not."""

from __future__ import annotations

import os
import subprocess
import sys

RANK = """
import horovod.torch as hvd, torch
hvd.init()
total = hvd.allreduce(torch.tensor([hvd.rank() + 1.0]), op=hvd.Sum)
assert total.item() == 3.0, f"allreduce of 1 and 2 gave {total.item()}"
hvd.shutdown()
"""


def main() -> int:
    horovodrun = os.path.join(os.path.dirname(sys.executable), "horovodrun")
    command = [sys.executable, horovodrun, "-np", "2", "--gloo", "--start-timeout", "60", sys.executable, "-c", RANK]
    environment = {**os.environ, "HOROVOD_LOG_LEVEL": "error"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=180, env=environment, check=False)
    except subprocess.TimeoutExpired:
        print(
            "horovod: the check of two processes did not answer within 180 s; is the loopback interface up?",
            file=sys.stderr,
        )
        return 1
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        print(
            "horovod: the check of two processes failed. Build it again: rm -rf ~/.cache/millrace/horovod && make install",
            file=sys.stderr,
        )
        return 1
    print("horovod: two processes averaged a tensor; it works")
    return 0


if __name__ == "__main__":
    sys.exit(main())
