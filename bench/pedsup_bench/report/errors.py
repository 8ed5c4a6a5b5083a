"""The errors of this stage that have exit codes of their own."""

from __future__ import annotations

from pedsup.errors import PedsupError
from pedsup.exit_codes import ExitCode


class RegressionError(PedsupError):
    """A figure is worse than the one it was compared with, beyond the noise."""

    exit_code = ExitCode.REGRESSION


class GateError(PedsupError):
    """A model does not reach the thresholds it must reach to be published."""

    exit_code = ExitCode.GATE
