"""Everything this package raises on purpose.

    PolicyServerError
    ├── ConfigError          a setting is unknown, impossible, or contradicts another
    ├── CheckpointError      a checkpoint is missing, damaged, or of another shape
    ├── AddressError         the server cannot listen where it was told to
    ├── RunDirError          the run folder exists, or is not one
    ├── SimulatorError       a simulator that we started keeps dying
    ├── LearnerError         a learner cannot be kept alive
    └── UnsupportedSpaceError  no policy of this kind can work in this space

All of them are for the operator: one sentence, exit code 2, no traceback. What a *client*
does wrong is a `sim_clients.protocol.ProtocolError` and never leaves the gateway.
"""

from __future__ import annotations


class PolicyServerError(Exception):
    """Base: the message is one sentence that names what was expected, what came, the remedy."""


class ConfigError(PolicyServerError):
    """A setting is unknown, impossible, or contradicts another."""


class CheckpointError(PolicyServerError):
    """A checkpoint is missing, damaged, or of another shape."""


class AddressError(PolicyServerError):
    """The server cannot listen where it was told to."""


class RunDirError(PolicyServerError):
    """The run folder exists already, or is not a run folder."""


class SimulatorError(PolicyServerError):
    """A simulator that the server started keeps dying."""


class LearnerError(PolicyServerError):
    """A learner cannot be kept alive."""


class UnsupportedSpaceError(PolicyServerError):
    """No policy of this kind can work in this space."""
