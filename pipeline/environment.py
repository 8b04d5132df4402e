"""Settings that come from environment variables, and what is wrong with one, in a sentence that names it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pipeline.errors import PipelineError

Settings = TypeVar("Settings", bound=BaseModel)


def settings_from(kind: type[Settings], variables: Mapping[str, str], given: Mapping[str, Any]) -> Settings:
    """Settings whose fields are ``given``, else come from the environment, else have their defaults.

    Args:
        kind: What to make.
        variables: By field, the variable that says it; one that is empty says nothing.
        given: Settings that go before the environment.

    Raises:
        PipelineError: One has a value that cannot be. The value is not shown, for it may be a secret.
    """
    found = {field: os.environ[name] for field, name in variables.items() if os.environ.get(name)}
    try:
        return kind(**{**found, **given})
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = "".join(f"{variables.get(str(step), step)}: " for step in first["loc"])
        message = place + first["msg"].removeprefix("Value error, ")
        raise PipelineError(message) from None
