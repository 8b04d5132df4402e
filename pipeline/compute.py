"""Where nets run: one choice for the whole graph, handed to every operator that takes ``compute``."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.tape import Tape


class Compute(BaseModel):
    """Device and inference engine of the nets.

    Attributes:
        device: ``auto`` takes CUDA where PyTorch sees it; ``cuda`` fails loudly where it does not.
        engine: ``auto`` is ONNX Runtime on the CPU and PyTorch on CUDA.
        threads: Threads inside one call of a net. Micro-batches that overlap gain more from the
            cores than threads inside one net do (``docs/decisions``), hence 1.
        tape: Where engines write down what their nets are given; ``omote bench`` asks for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    engine: Literal["auto", "onnx", "openvino", "torch"] = "auto"
    threads: int = Field(default=1, ge=1)
    tape: Tape | None = Field(default=None, exclude=True)
