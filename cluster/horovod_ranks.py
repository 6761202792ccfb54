"""Ranks that `horovod.spark.run` starts in the tasks of a Spark job."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import psutil

from cluster.errors import LaunchError, RankLostError, spark_reason
from cluster.failures import Failure, verdict
from cluster.job import Job, rank_env_anywhere
from cluster.lines import to_stderr
from cluster.processes import TAIL_LINES
from cluster.rank import run_rank
from cluster.sizes import threads_per_rank
from cluster.spark_ranks import FAILED, Board, answer, refuse_rdds, session
from cluster.supervision import END_S, GRACE_S, START_S

LEAVE_S = 20.0  # for Horovod to end its ranks, which it gives 10 s, and for Spark to end their tasks
TOLD = "millrace, how a rank failed: "  # in front of a line of JSON among a rank's lines
MET = "millrace, a rank has met the others"  # a line for the launcher alone
_MISSING = re.compile(r"(ModuleNotFoundError|ImportError): .*")

HorovodSparkRun = Callable[[Callable[[], Any], int, dict[str, str], int, "Lines"], list[Any]]


def run_horovod_spark(job: Job, run: HorovodSparkRun) -> dict[str, Any]:
    """Run the ranks through `horovod.spark.run`, given as `run`, in the active session; call it in the main thread.

    Raises:
        RankLostError: Horovod could not start the ranks, or a rank was lost.
        LaunchError: there is no session, a rank failed, a package is missing, or the ranks did not end in time.
    """
    _ = job.spark or session()
    refuse_rdds("spark")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    env = {**rank_env_anywhere(job.stall_s), **job.env}
    lines = Lines(job.log)
    passed = threading.Event()
    try:
        with _interrupt_after(job.limit.left_s(), passed), _threads_errors() as errors:
            ended = run(partial(_horovod_rank, job.target, job.spec), job.ranks, env, int(START_S), lines)
    except (Exception, KeyboardInterrupt) as error:
        if passed.is_set():
            raise LaunchError(job.limit.passed(f"the ranks still ran; their last lines:{lines.last}\n")) from error
        if isinstance(error, KeyboardInterrupt):
            raise
        raise _why(job.ranks, [error, *errors], lines) from error
    return answer(
        [
            {"failure": asdict(Failure.of_error(rank, job.ranks, end["error"]))} if "error" in end else end
            for rank, end in enumerate(ended)
        ]
    )


def _why(ranks: int, errors: Sequence[BaseException], lines: Lines) -> Exception:
    """A rank's own error, as the other launchers give it; what is missing stays so; all else may go another time."""
    failures = [Failure.of_error(rank, ranks, error) for rank, error in sorted(lines.failed.items())]
    if not all(failure.noticed_only for failure in failures):
        return verdict(failures)
    failed = f"horovod.spark could not run {ranks} ranks to their end"
    reasons = [f"{type(error).__name__}: {spark_reason(error)}" for error in errors if isinstance(error, Exception)]
    said = [] if lines.begun else [line.partition(" ")[2] for line in lines.tail]  # without the rank
    missing = next((found for found in map(_MISSING.search, reasons) if found), None)
    missing = missing or next((found for found in map(_MISSING.match, said) if found), None)
    if missing:
        return LaunchError(
            f"{failed}: {missing[0]}. It needs Horovod and our packages in the Python of the driver and the executors"
        )
    return RankLostError(
        f"{failed}: {' '.join(str(errors[0]).split())}. It needs {ranks} free task slots and a classic cluster (no "
        f"Spark Connect); training.launcher=barrier needs no RDDs. The ranks' last lines:{lines.last}"
    )


@contextmanager
def _threads_errors() -> Iterator[list[BaseException]]:
    """What ends threads meanwhile: Horovod asks Spark in one, and tells of Spark's error only that there was one."""
    found, before = list[BaseException](), threading.excepthook

    def note(ended: threading.ExceptHookArgs) -> None:
        if ended.exc_value is not None:
            found.append(ended.exc_value)
        before(ended)

    threading.excepthook = note
    try:
        yield found
    finally:
        threading.excepthook = before


@contextmanager
def _interrupt_after(seconds: float, passed: threading.Event) -> Iterator[None]:
    """Interrupt the main thread as Ctrl-C does, which is what horovod.spark listens to, and set `passed`.

    It then waits for the ranks' hosts, for ever where one of them does not answer; so after a while the main thread is
    taken out of that wait, by a signal of its own. Horovod keeps the handlers of SIGINT and SIGTERM for itself; all are
    put back.
    """
    main, over = threading.main_thread(), threading.Event()

    def interrupt() -> None:
        if over.wait(min(seconds, threading.TIMEOUT_MAX)):
            return
        passed.set()
        number = signal.SIGINT
        while True:
            signal.pthread_kill(main.ident or 0, number)  # wakes it from a system call too
            if over.wait(LEAVE_S):
                return
            number = signal.SIGUSR2

    def leave(*_: object) -> None:
        if not over.is_set():
            raise TimeoutError("horovod.spark did not end its ranks")

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, leave)
    thread = threading.Thread(target=interrupt, name="launch limit", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)


class Lines:
    """A stream that passes on whole lines and keeps the last ones; Horovod has put the rank in front of each.

    Several threads write, one for each stream of each rank.

    Attributes:
        tail: the last lines.
        failed: by rank, the errors that ranks have told among their lines.
        met: whether a rank has met the others.
    """

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log, self._begun = log, threading.local()
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.failed: dict[int, dict[str, Any]] = {}
        self.met = False

    @property
    def begun(self) -> bool:
        """Whether a rank had what it needs: what its lines say is missing since, it went on without."""
        return self.met or bool(self.failed)

    @property
    def last(self) -> str:
        """The last lines, for errors."""
        return "".join(f"\n    {line}" for line in self.tail) or " none"

    def write(self, text: str) -> None:
        *lines, self._begun.line = (getattr(self._begun, "line", "") + text).split("\n")
        for line in lines:
            plain = re.sub(r"^\[(\d+)\]<std(?:out|err)>:", r"[\1] ", line)
            if plain.endswith(MET):
                self.met = True
                continue
            mark, told, text = plain.partition(TOLD)
            with suppress(ValueError, TypeError, KeyError):  # another writer broke into it: a line like others
                plain = f"{mark}{self._note(text)}" if told else plain
            self.tail.append(plain)
            self._log(plain)

    def _note(self, text: str) -> str:
        """Keep the error that a rank has told; its message."""
        rank, error = json.loads(text)
        message = str(error["message"])
        self.failed[int(rank)] = error
        return message

    def flush(self) -> None:
        """Nothing is held back but a line's beginning."""

    def close(self) -> None:
        """The stream belongs to the launch, not to the rank that ends."""


def _horovod_rank(target: str, spec: str) -> dict[str, Any]:
    """A rank in a process of horovod.spark, which itself would wait for ever for one that hangs.

    And for what that one started: Horovod reads a rank's lines until the last process that can write them has ended.
    """
    take_threads()
    signal.signal(signal.SIGTERM, lambda *_: _leave())
    board, joined, ended_well = Board(os.environ), threading.Event(), threading.Event()
    threading.Thread(target=_leave_with_the_others, args=(board, joined, ended_well), daemon=True).start()

    def met() -> None:
        joined.set()
        to_stderr(MET)

    ended = run_rank(target, json.loads(spec), met)
    ended_well.set()
    if "error" in ended:
        to_stderr(f"{TOLD}{json.dumps([int(os.environ['HOROVOD_RANK']), ended['error']])}")
        board.put(FAILED)
    _end_children()
    threading.Thread(target=end_after_the_main_thread, name="end", daemon=True).start()
    return ended


def end_after_the_main_thread() -> None:
    """End this process END_S after its work: Horovod waits for it, and it for threads that the rank has left behind.

    Horovod takes the result in the main thread, so it has it by then.
    """
    threading.main_thread().join()
    time.sleep(END_S)
    to_stderr(f"this rank has given its result and does not end within {END_S:g} s; it is ended")
    os._exit(0)


def take_threads() -> None:
    """Take this rank's share of the cores that the executor has, as the other launchers do, before torch is loaded."""
    cores, ranks_here = len(os.sched_getaffinity(0)), int(os.environ["HOROVOD_LOCAL_SIZE"])
    os.environ.setdefault("OMP_NUM_THREADS", str(threads_per_rank(cores, ranks_here)))


def _leave_with_the_others(board: Board, joined: threading.Event, ended: threading.Event) -> None:
    """End this process, with its stack on stderr, where another rank failed and this one does not come to an end."""
    deadline = time.monotonic() + START_S
    while not board.has(FAILED):
        if ended.wait(1.0):
            return
        if not joined.is_set() and time.monotonic() > deadline:
            print(f"this rank must meet the others within {START_S:.0f} s, and did not", file=sys.stderr, flush=True)
            board.put(FAILED)
    if not ended.wait(GRACE_S):
        faulthandler.dump_traceback()
        _leave()


def _leave() -> None:
    _end_children()
    os._exit(1)


def _end_children() -> None:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended just now
            child.kill()
