"""Ends a JVM whose driver has ended: python jvm_watch.py DRIVER JVM FOLDER (two processes' numbers; the JVM's log)."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys

END_S = 3.0  # for the JVM to end by itself, after its driver: it removes its own files then


def main(driver: int, jvm: int, folder: str) -> None:
    try:
        jvm_ends = os.pidfd_open(jvm)
    except ProcessLookupError:
        return  # the JVM is gone already: nothing is left to end, and its last words may be of use
    try:
        driver_ends = os.pidfd_open(driver)
        if driver_ends not in select.select([driver_ends, jvm_ends], [], [])[0]:
            return  # the JVM died first: its last words may be of use
    except ProcessLookupError:
        pass  # the driver was gone before we looked
    if not select.select([jvm_ends], [], [], END_S)[0]:
        signal.pidfd_send_signal(jvm_ends, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
