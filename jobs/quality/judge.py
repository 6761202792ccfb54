"""A batch's profile against those of good batches: what differs by more than chance, and by more than good ones do.

Knows rows, columns and days, and no task. A figure is a finding where it lies further from good ones than these lie
from each other and than chance takes it, and has moved by more than the settings call little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from jobs.quality import columns, volumes
from jobs.quality.compared import OF_SHARE, Good, Part, of_part, told_of_part
from jobs.quality.findings import Finding
from spark_udfs.order_lines import ERASED

if TYPE_CHECKING:
    from jobs.quality.profile import Profile
    from jobs.settings_quality import QualitySettings


def judge(
    batch: Profile, good: Sequence[Good], asked: QualitySettings, now_us: int, since_us: int | None = None
) -> list[Finding]:
    """What is wrong with a batch; nothing where there is none to hold it against.

    Args:
        batch: the new one.
        good: the latest good ones of the same source, the oldest first.
        asked: the limits.
        now_us: the moment at which the batch came, in microseconds since 1970.
        since_us: the latest time of all that was written before, good or not; days that have no row are looked for from
            there on. None: nobody knows, and they are looked for among the batch's own days.
    """
    if not good:
        return []
    told = list(_outcomes(batch, good, asked))
    if batch.rows:
        told += volumes.found(batch, good, asked, since_us)
        told += volumes.late(batch, good, now_us)
        copies = of_part(_copies, batch, good, OF_SHARE, asked.sigmas)
        told += told_of_part("keys", "", "have the key of another one", copies, asked)
        told += columns.found(batch, good, asked)
    elif any(each.profile.rows for each in good):
        told.append(Finding("rows", "", "no rows", "some, as good batches had"))
    return told


def _outcomes(batch: Profile, good: Sequence[Good], asked: QualitySettings) -> Iterator[Finding]:
    """Shares of what became of the rows; how many are of erased persons says nothing of the source."""
    names = {name for one in [batch, *(each.profile for each in good)] for name in one.outcomes}
    for name in sorted(names - {ERASED}):
        result = of_part(_outcome(name), batch, good, OF_SHARE, asked.sigmas)
        yield from told_of_part("outcomes", "", f"became '{name}'", result, asked)


def _outcome(name: str) -> Callable[[Profile], Part]:
    return lambda profile: (
        profile.outcomes.get(name, 0),
        sum(rows for what, rows in profile.outcomes.items() if what != ERASED),
    )


def _copies(profile: Profile) -> Part:
    keys, rows = profile.keys
    return rows - keys, rows
