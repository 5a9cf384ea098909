"""Exceptions raised at the project's boundaries; the command line prints each on one line.

SepsisGymError
├── ConfigError        a setting is outside what it may be (also a ValueError)
├── SourceError        an input file or folder is missing or unreadable
│   └── SchemaError    a table lacks a column, or a column holds the wrong type
├── EmptyCohortError   no stay is left after the inclusion rules
├── TrajectoryError    stored or assembled trajectories break their own contract
├── UnknownNameError   no world model, agent or split of that name (also a KeyError)
├── CheckpointError    a saved model or agent cannot be read
├── InvalidActionError an action outside the 25 cells (also a ValueError)
├── SupportError       the data hold nothing to estimate a quantity from
├── AgentReplyError    a language model's reply is no valid tool call
└── BackendError       a language model's server gives no reply
"""


class SepsisGymError(Exception):
    """Base of all errors this project raises on purpose."""

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return " ".join(str(argument) for argument in self.args)


class ConfigError(SepsisGymError, ValueError):
    """A setting is outside what it may be."""


class SourceError(SepsisGymError):
    """An input file or folder is missing or unreadable."""


class SchemaError(SourceError):
    """A table lacks a column, or a column holds the wrong type."""


class EmptyCohortError(SepsisGymError):
    """No stay is left after the inclusion rules."""


class TrajectoryError(SepsisGymError):
    """Stored or assembled trajectories break their own contract."""


class UnknownNameError(SepsisGymError, KeyError):
    """No world model, agent or split is known by that name."""


class CheckpointError(SepsisGymError):
    """A saved model or agent cannot be read."""


class InvalidActionError(SepsisGymError, ValueError):
    """An action lies outside the 25 cells."""


class SupportError(SepsisGymError):
    """The data hold nothing to estimate the quantity from."""


class AgentReplyError(SepsisGymError):
    """A language model's reply is no valid tool call."""


class BackendError(SepsisGymError):
    """A language model's server gives no reply."""
