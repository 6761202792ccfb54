"""Every error that Millrace raises on purpose. Each message states the rule, the name, the value and the remedy.

    MillraceError
    |-- SettingsError        a setting is unknown, of the wrong type or out of range
    |-- TableError           a Delta table is missing, empty, or not at the version asked for
    |   |-- NoTableError     there is no such table at all
    |   |-- SchemaError      columns are missing, of the wrong type, or hold what the schema forbids
    |   `-- SnapshotError    a pinned version cannot be read: a file is gone, corrupt, or of an unknown feature
    |-- DataError            rows break a rule that the job cannot count and set aside
    |   |-- TooManyBadRows   the quarantined share passed the limit in the settings
    |   `-- QualityError     a batch differs from the good ones before it
    |-- ArtefactError        a JSON file that Millrace wrote is missing, torn, changed, or not of its kind
    |-- CheckpointError      no usable checkpoint where one is needed
    |   `-- LockHeldError    another process writes into the folder
    |-- BundleError          a bundle is torn, of another schema, or of another format
    |   `-- UnreadableError  its disk or file system does not give it just now: nothing says that it is damaged
    |-- WeightsError         a text model's folder is missing, changed, or its parts do not fit together
    |-- TrainingError        training cannot go on: non-finite loss, ranks that disagree
    |   |-- NonFiniteError   the loss or the gradient was not finite too often
    |   |-- PeerLostError    another rank is gone, or did not come in time
    |   `-- PreemptedError   it was asked to end (SIGTERM), and has left a checkpoint where it could
    `-- TuningError          a study cannot go on: of another fingerprint, unreachable, or its first trials all failed

What concerns machines rather than data has its own tree in cluster/errors.py.
"""

from __future__ import annotations


class MillraceError(Exception):
    """Base of all errors raised on purpose; the command line prints it without a traceback.

    Attributes:
        lost_peer: whether the cause lies with another rank: the launcher looks past such an error.
        together: whether all ranks raise it at the same point, so that they can still meet.
        busy: whether another process has what this one needs: later it may be free.
    """

    lost_peer = False
    together = False
    busy = False


class SettingsError(MillraceError):
    """A setting is unknown, of the wrong type or out of range."""


class TableError(MillraceError):
    """A Delta table is missing, empty, or not at the version asked for."""


class NoTableError(TableError):
    """There is no such table: nothing was written there yet, or it lies elsewhere."""


class SchemaError(TableError):
    """Columns are missing, of the wrong type, or hold values that the schema forbids."""


class SnapshotError(TableError):
    """A pinned version of a table cannot be read as it was written."""


class DataError(MillraceError):
    """Rows break a rule in a way that cannot be counted and set aside."""


class TooManyBadRows(DataError):  # noqa: N818  the name says what is wrong
    """The quarantined share of the rows passed the limit in the settings."""


class QualityError(DataError):
    """A batch differs from the good ones before it by more than chance, and nobody has said why."""


class ArtefactError(MillraceError):
    """A JSON file that Millrace wrote is missing, torn, was changed, or is not of its kind."""


class CheckpointError(MillraceError):
    """No usable checkpoint where one is needed."""


class LockHeldError(CheckpointError):
    """Another process writes into the folder, and holds its lock."""

    busy = True


class BundleError(MillraceError):
    """A bundle is torn, of another schema, or of another format."""


class UnreadableError(BundleError):
    """A bundle's disk or file system does not give it just now; it may be whole."""


class WeightsError(MillraceError):
    """A text model's weights, tokenizer or configuration are missing, were changed, or do not fit together."""


class TrainingError(MillraceError):
    """Training cannot go on: a non-finite loss, or ranks that disagree."""


class NonFiniteError(TrainingError):
    """Too many steps were skipped, for a loss or a gradient that is not finite."""

    together = True


class PeerLostError(TrainingError):
    """Another rank is gone or did not join a collective in time; the cause lies with that rank, not with this one."""

    lost_peer = True


class PreemptedError(TrainingError):
    """A training was asked to end (SIGTERM), and has left a checkpoint where it has a folder for it."""

    asked_to_end = True  # whoever runs one training after another looks for this
    together = True


class TuningError(MillraceError):
    """A study cannot go on: it is of another fingerprint, its storage cannot be reached, or its first trials failed."""
