"""What a run may do, decided from its stated purpose before any work is done."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

Setting = Literal["public", "private", "retail", "workplace", "education", "research", "demonstration"]
Purpose = Literal["unstated", "access_control", "safety", "medical", "research", "demonstration", "service", "archive"]


class Policy(BaseModel):
    """The purpose of a run and what follows from it. Everything sensitive is off until it is asked for.

    Emotion inference at work and in education is refused unless it serves medicine or safety
    (Regulation (EU) 2024/1689, Article 5(1)(f)). Emotion, unmasking and identification each need a purpose.

    Attributes:
        setting: Where the cameras are.
        purpose: What the run is for.
        emotion: Whether emotions may be read.
        identification: Whether faces may be compared with the gallery.
        unmasking: Whether what a mask hides may be estimated.
        faces: ``blurred`` hides everybody in annotated video who is not enrolled.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    setting: Setting = "public"
    purpose: Purpose = "unstated"
    emotion: bool = False
    identification: bool = False
    unmasking: bool = False
    faces: Literal["blurred", "shown"] = "blurred"

    @model_validator(mode="after")
    def _refuse(self) -> Policy:
        wanted = [name for name in ("emotion", "identification", "unmasking") if getattr(self, name)]
        if wanted and self.purpose == "unstated":
            message = f"policy: {', '.join(wanted)} needs a stated purpose; set policy.purpose in the graph"
            raise ValueError(message)
        if self.emotion and self.setting in {"workplace", "education"} and self.purpose not in {"medical", "safety"}:
            message = (
                f"policy: emotion inference in the setting {self.setting!r} is refused for the purpose "
                f"{self.purpose!r}; "
                "it is lawful there for medical or safety purposes only (EU AI Act, Article 5(1)(f))"
            )
            raise ValueError(message)
        return self

    def stated(self, capability: Literal["emotion", "identification", "unmasking"]) -> str:
        """``allowed:<purpose>`` or ``off``, as the records show it."""
        return f"allowed:{self.purpose}" if getattr(self, capability) else "off"
