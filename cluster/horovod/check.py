"""Prove that the installed Horovod works: two processes on this machine average a tensor. Exits non-zero if not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

RANK = """
import horovod.torch as hvd, torch
hvd.init()
total = hvd.allreduce(torch.tensor([hvd.rank() + 1.0]), op=hvd.Sum)
assert total.item() == 3.0, f"allreduce of 1 and 2 gave {total.item()}"
hvd.shutdown()
"""


def main() -> int:
    horovodrun = Path(sys.executable).with_name("horovodrun")
    command = [sys.executable, str(horovodrun), "-np", "2", "--gloo", "--start-timeout", "60"]
    environment = {**os.environ, "HOROVOD_LOG_LEVEL": "error"}
    try:
        done = subprocess.run(
            [*command, sys.executable, "-c", RANK],
            capture_output=True,
            text=True,
            timeout=180,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return failed("the check of two processes did not answer within 180 s; is the loopback interface up?")
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        cache = Path(os.environ.get("MILLRACE_CACHE") or Path.home() / ".cache" / "millrace") / "horovod"
        return failed(f"the check failed. Build it again: rm -rf '{cache}' && make install")
    print("horovod: two processes added up a tensor; it works")
    return 0


def failed(why: str) -> int:
    print(f"horovod: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
