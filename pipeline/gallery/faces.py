"""Faces of single pictures, by the stages of the graph that embed those of streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from threading import Lock
from typing import Any

import numpy as np

from pipeline.errors import GraphError, PolicyError
from pipeline.graph import Graph, Stage, find
from pipeline.operator import KeyedOperator
from pipeline.packets import EmbeddedFace, Floats, Frame, Pixels

LAST = "embed"


class Faces:
    """Finds, aligns, judges and embeds the faces of a picture. Safe to use from many threads."""

    def __init__(self, graph: Callable[[], Graph], model: str = "") -> None:
        """Nothing is loaded before the first picture, or `ready`.

        Args:
            graph: Gives the graph; its stages between ``decode`` and ``embed`` are built, without a gallery.
            model: What its net is called, where it is to be known before the graph is; the graph says it if empty.
        """
        self._model, self._graph = model, graph
        self._lock, self._built = Lock(), list[tuple[str, tuple[str, ...], Any]]()
        self._numbers = count()

    @property
    def model(self) -> str:
        """Name of the net that makes the vectors; it is not loaded to answer.

        Raises:
            GraphError: The graph has no ``embed`` stage, or one that does not say it.
        """
        if not self._model:
            self._model = _model_of(self._graph())
        return self._model

    def ready(self) -> None:
        """Load the nets.

        Raises:
            GraphError: The graph has no ``embed`` stage, or one with another net than was said.
            PolicyError: Its policy does not allow to identify anybody.
            WeightsError: The weights were not pulled.
        """
        with self._lock:
            if not self._built:
                graph = self._graph()
                if self._model not in {"", model := _model_of(graph)}:
                    message = f"this gallery is asked with vectors of {self._model!r}, and the graph makes {model!r}"
                    raise GraphError(message)
                self._built = _built(graph)

    def of(self, picture: Pixels, least_score: float = 0.0) -> list[EmbeddedFace]:
        """The faces of a picture, (H, W, 3) uint8 RGB, largest first.

        Args:
            picture: Upright.
            least_score: Faces of which the detector is less sure are left out.

        Raises:
            PipelineError: A stage failed.
        """
        stream = f"picture-{next(self._numbers)}"
        self.ready()
        (first, _, _), *rest = self._built
        out: dict[str, list[Any]] = {first: [Frame(stream, 0, 0, 0, picture)]}
        for name, after, stage in rest:
            batch = [packet for up in after for packet in out[up]]
            out[name] = list(stage(stage.start(stream), batch)[1] if isinstance(stage, KeyedOperator) else stage(batch))
        faces = [face for face in out[LAST] if isinstance(face, EmbeddedFace) and face.score >= least_score]
        return sorted(faces, key=lambda face: -face.quality.size_px)

    def vectors(self, crops: Sequence[Pixels]) -> Floats:
        """(N, D) float32 of unit length, of N aligned crops, (128, 128, 3) uint8 RGB."""
        self.ready()
        *_, (_, _, embed) = self._built
        return np.asarray(embed.vectors(crops), np.float32)

    def close(self) -> None:
        """Release the nets."""
        for _, _, stage in self._built[1:]:
            stage.close()


def _model_of(graph: Graph) -> str:
    """The name that the class of the last stage gives its net."""
    kind = find(graph.up_to(LAST).stages[LAST].use)
    model = getattr(kind, "model", "")
    if not isinstance(model, str) or not model:
        message = f"{kind.__name__} does not say whose vectors it makes; give the class an attribute `model`"
        raise GraphError(message)
    return model


def _built(graph: Graph) -> list[tuple[str, tuple[str, ...], Any]]:
    """The stages up to the last one, in order; the first, which decodes, is not needed."""
    if not graph.policy.identification:
        message = "a gallery needs policy.identification and a purpose; set them in the graph"
        raise PolicyError(message)
    part = graph.up_to(LAST)
    first, *rest = part.order
    built = [(name, part.stages[name].after, part.build(_without_gallery(part.stages[name]))) for name in rest]
    return [(first, (), None), *built]


def _without_gallery(stage: Stage) -> Stage:
    return stage.model_copy(update={"args": {key: value for key, value in stage.args.items() if key != "gallery"}})
