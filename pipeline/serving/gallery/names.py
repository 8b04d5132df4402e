"""Names and texts as they come over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, Field

from pipeline.gallery.subjects import SubjectName


def _is_printable(text: str) -> str:
    if not text.isprintable():
        message = "a text has signs that can be printed"
        raise ValueError(message)
    return text


SubjectPath = Annotated[SubjectName, Path(description="Name of the subject.", examples=["ada.lovelace"])]
Text = Annotated[str, Field(max_length=256), AfterValidator(_is_printable)]
FacePath = Annotated[
    Text, Path(description="Id of an enrolled face.", examples=["6b135f5b-a365-4522-b1f1-4c9ac2dd0728"])
]
