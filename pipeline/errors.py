"""Every error omote raises on purpose: one sentence that names the thing and the way out."""

from __future__ import annotations

from pydantic import ValidationError


class PipelineError(Exception):
    """The root of the tree; the command line prints its text and exits with 1."""


class GraphError(PipelineError):
    """The declared graph cannot work. Raised before the first packet."""


class PolicyError(PipelineError):
    """The stated purpose does not allow what the graph asks for. Raised before any work."""


class SourceError(PipelineError):
    """The input cannot be opened, read or understood."""


class SinkError(PipelineError):
    """The output cannot be written."""


class WeightsError(PipelineError):
    """A weight or clip is missing, damaged or not the one that was pinned."""


class DeviceError(PipelineError):
    """The device or inference engine that was asked for is not there."""


class StageError(PipelineError):
    """An operator raised. Its cause is kept as text, for causes do not always survive pickling.

    Attributes:
        stage: Name of the stage in the graph.
        cause: Type and text of the original exception.
    """

    def __init__(self, stage: str, cause: str) -> None:
        super().__init__(stage, cause)
        self.stage, self.cause = stage, cause

    def __str__(self) -> str:
        return f"stage {self.stage!r} failed: {self.cause}"


class UnavailableError(PipelineError):
    """A stage could not be called: its operator is not to blame, nor what it was given; try again later."""

    def __init__(self, stage: str, attempts: int, cause: str) -> None:
        super().__init__(stage, attempts, cause)
        self.stage, self.attempts, self.cause = stage, attempts, cause

    def __str__(self) -> str:
        return f"no replica of stage {self.stage!r} answered in {self.attempts} attempts: {self.cause}"


def first_mistake(error: Exception) -> str:
    """One sentence about the first thing that is wrong, with the place where it stands, and never what was given."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(step) for step in first["loc"])
    text = first["msg"].removeprefix("Value error, ")
    return f"`{place}`: {text}" if place else text
