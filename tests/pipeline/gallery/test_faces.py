"""Which net makes the vectors of pictures is said by the graph, before any net is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import GraphError
from pipeline.gallery.faces import Faces
from pipeline.graph import Graph, Stage, load

GRAPH = Path(__file__).parents[3] / "deploy" / "graphs" / "faces.yaml"


def test_the_embed_stage_says_the_name_of_its_net() -> None:
    faces = Faces(lambda: load(GRAPH))
    assert faces.model == "mobilefacenet"
    faces.close()


def test_a_name_that_is_given_is_taken_without_the_graph_and_held_against_it_later() -> None:
    asked: list[str] = []

    def graph() -> Graph:
        asked.append("graph")
        return load(GRAPH)

    faces = Faces(graph, "arcface")
    assert (faces.model, asked) == ("arcface", [])
    with pytest.raises(GraphError, match="'arcface', and the graph makes 'mobilefacenet'"):
        faces.ready()


def test_a_stage_that_does_not_say_it_is_refused() -> None:
    graph = Graph({"embed": Stage(use="operators.decode:Decode")})
    with pytest.raises(GraphError, match="give the class an attribute `model`"):
        _ = Faces(lambda: graph).model
