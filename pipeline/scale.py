"""How much of a cluster each stage gets. Never changes what the stage computes."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import GraphError, first_mistake
from pipeline.graph import Graph


class StageScale(BaseModel):
    """Replicas of one deployment and what each of them takes.

    Attributes:
        min: Least number of replicas.
        max: Largest number of replicas.
        target_ongoing_requests: Calls under way in a replica that autoscaling aims at.
        num_cpus: Logical CPUs of a replica.
        num_gpus: GPUs of a replica, or a share of one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    min: int = Field(default=1, ge=0)
    max: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=2.0, gt=0)
    num_cpus: float = Field(default=0.1, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> StageScale:
        if self.min > self.max:
            message = f"min {self.min} is above max {self.max}"
            raise ValueError(message)
        return self


class Scale(BaseModel):
    """A scale file.

    Attributes:
        stages: By name; stages that are not named take the defaults.
        chain: Groups of stages that share their replicas, and so their device.
        here: Stages without state that stay with the stream, for they do less than a call of them would.
        upscale_delay_s: How long demand must last before replicas are added.
        downscale_delay_s: How long it must be gone before they are removed.
        patience_s: How long a deployment may take to be ready.
        call_timeout_s: How long one call of a stage may take before it is tried again.
        attempts: How often a call is tried.
        cameras: Most cameras that are watched at once; one more is rejected.
        worker_cpus: Logical CPUs of a worker, which has one partition or one camera.
        stuck_s: A worker without progress for so long is started again; longer than all attempts of a call.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    stages: dict[str, StageScale] = Field(default_factory=dict)
    chain: tuple[tuple[str, ...], ...] = ()
    here: tuple[str, ...] = ()
    upscale_delay_s: float = Field(default=1.0, ge=0)
    downscale_delay_s: float = Field(default=5.0, ge=0)
    patience_s: float = Field(default=60.0, gt=0)
    call_timeout_s: float = Field(default=20.0, gt=0)
    attempts: int = Field(default=4, ge=1)
    cameras: int = Field(default=64, ge=0)
    worker_cpus: float = Field(default=0.1, ge=0)
    stuck_s: float = Field(default=120.0, gt=0)

    def groups(self, graph: Graph) -> dict[str, tuple[str, ...]]:
        """The deployments of ``graph``: their names, and the stages without state that each of them holds.

        Raises:
            GraphError: The file names a stage that the graph has not, or that keeps state, or one twice.
        """
        pure = [name for name in graph.order if not graph.keyed(name)]
        named = [*self.here, *(name for chain in self.chain for name in chain)]
        if stray := sorted({*named, *self.stages} - set(pure)):
            message = f"the scale names {stray}, but the stages that can be deployed are {pure}"
            raise GraphError(message)
        if twice := sorted({name for name in named if named.count(name) > 1}):
            message = f"the scale names {twice} twice; a stage is in one `chain` or `here`"
            raise GraphError(message)
        alone = [(name,) for name in pure if name not in named]
        return {"-".join(chain): tuple(chain) for chain in (*self.chain, *alone)}

    def of(self, group: tuple[str, ...]) -> StageScale:
        """What a group of stages gets: what its first stage that is named gets."""
        return next((self.stages[name] for name in group if name in self.stages), StageScale())


def load_scale(path: str | Path) -> Scale:
    """Read a scale file.

    Raises:
        GraphError: It cannot be read, or has a key or value that is not allowed.
    """
    try:
        return Scale(**(yaml.safe_load(Path(path).read_text()) or {}))
    except OSError as error:
        message = f"cannot read the scale {path}: {error.strerror}"
        raise GraphError(message) from error
    except (yaml.YAMLError, TypeError, ValidationError) as error:
        message = f"{path}: {first_mistake(error)}"
        raise GraphError(message) from error
