"""One figure of a batch against the same figure of good batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from jobs.quality.chance import Band, Figure, band
from jobs.quality.findings import Finding, percent

if TYPE_CHECKING:
    from jobs.quality.profile import Profile
    from jobs.settings_quality import Check, QualitySettings

Part = tuple[float, float]  # rows that have something, and all that may have it
# How far a share moves from one good batch to the next, before much is known of them, and how much by a part of it.
SHARE_BY_ITSELF, OF_SHARE = 0.005, 0.05


class Good(NamedTuple):
    """A good batch.

    Attributes:
        profile: its own.
        is_asked: whether it differed, and a person said that it is good all the same.
        judged_us: when it came, in microseconds since 1970.
    """

    profile: Profile
    is_asked: bool
    judged_us: int


class Compared(NamedTuple):
    """A figure and what was expected of it.

    Attributes:
        value: the batch's.
        expected: by the good ones.
        distance: to that, or to a batch that a person called good, whichever is nearer.
    """

    value: float
    expected: Band
    distance: float

    @property
    def is_apart(self) -> bool:
        """Whether neither chance nor how good ones differ accounts for it."""
        return self.distance > self.expected.width


def compared(
    of: Callable[[Profile], Figure], batch: Profile, good: Sequence[Good], prior: float, sigmas: float
) -> Compared:
    """A figure of the batch against that of good ones.

    Args:
        of: a profile's figure.
        batch: the new one.
        good: those before it; one at least.
        prior: the standard deviation of the figure from one good batch to the next, before much is known of them.
        sigmas: how many standard deviations are allowed.
    """
    figure, held = of(batch), [of(each.profile) for each in good]
    return _compared(figure, held, [each.is_asked for each in good], prior, sigmas)


def _compared(
    figure: Figure, held: Sequence[Figure], is_asked: Sequence[bool], prior: float, sigmas: float
) -> Compared:
    expected = band(held, figure.noise, prior, sigmas)
    near = [expected.middle, *(one.value for one, asked in zip(held, is_asked, strict=True) if asked)]
    return Compared(figure.value, expected, min(abs(figure.value - one) for one in near))


def of_part(
    of: Callable[[Profile], Part], batch: Profile, good: Sequence[Good], prior: float, sigmas: float
) -> Compared | None:
    """A share of the rows against that of good ones; None where one side has no rows to have a share of.

    Chance is reckoned by the share that good ones have, and not by the batch's own.

    Args:
        of: a profile's rows that have something, and those that may have.
        batch, good, prior, sigmas: as of `compared`; the prior as a part of the share.
    """
    part, held = of(batch), [(part, each.is_asked) for each in good if (part := of(each.profile))[1]]
    if not part[1] or not held:
        return None
    middle = median(count / rows for (count, rows), _ in held)
    figures = [_figure(part, middle) for part, _ in held]
    own = SHARE_BY_ITSELF + prior * min(middle, 1 - middle)
    return _compared(_figure(part, middle), figures, [is_asked for _, is_asked in held], own, sigmas)


def _figure(part: Part, usual: float) -> Figure:
    """A share with the noise that it has where so many usually do; half a row is added, so that none is not certain."""
    count, rows = part
    share = (usual * rows + 0.5) / (rows + 1)
    return Figure(count / rows, math.sqrt(share * (1 - share) / rows))


def told_of_part(
    check: Check, column: str, what: str, result: Compared | None, asked: QualitySettings
) -> Iterator[Finding]:
    """A finding where a share of the rows is another than in good batches."""
    if result is None or not result.is_apart or result.distance < asked.least_share:
        return
    middle, width = result.expected
    expected = f"{percent(middle)}, at most {percent(max(width, asked.least_share))} off"
    yield Finding(check, column, f"{percent(result.value)} of the rows {what}", expected)
