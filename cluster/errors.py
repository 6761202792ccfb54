"""What can go wrong with machines and processes. Each message states the rule, the name, the value and the remedy.

ClusterError
|-- LaunchError          a rank failed to start, failed, or did not answer in time
`-- EnvironmentProblem   something that Millrace needs is not on this machine
"""

from __future__ import annotations


class ClusterError(Exception):
    """Base of the errors that the cluster package raises; the command line prints it without a traceback."""


class LaunchError(ClusterError):
    """A rank failed to start, failed, or did not answer in time."""


class EnvironmentProblem(ClusterError):  # noqa: N818  OSError has the better name
    """Something that Millrace needs is not on this machine."""
