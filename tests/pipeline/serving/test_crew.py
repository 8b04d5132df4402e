"""Which worker moves when nodes come and go."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from pipeline.serving.crew import move_of


def test_a_new_node_takes_a_worker_from_the_fullest() -> None:
    assert move_of({"camera-b": "old", "camera-a": "old", "camera-c": "other"}, ["old", "other", "new"]) == (
        "camera-a",
        "new",
    )


@pytest.mark.parametrize(
    ("placed", "nodes"),
    [
        ({"a": "one", "b": "one"}, ["one"]),
        ({"a": "one", "b": "two"}, ["one", "two"]),
        ({"a": "one"}, ["one", "two"]),
        ({}, ["one", "two"]),
        ({"a": "one", "b": "one"}, []),
    ],
    ids=["one node", "even already", "it would only swap them", "no worker", "no node"],
)
def test_nobody_moves_where_it_makes_no_difference(placed: dict[str, str], nodes: list[str]) -> None:
    assert move_of(placed, nodes) is None


def test_moving_goes_on_until_the_nodes_are_even() -> None:
    placed = {f"camera-{n}": "old" for n in range(7)}
    nodes, moves = ["old", "new", "newer"], 0
    while (move := move_of(placed, nodes)) is not None:
        placed[move[0]] = move[1]
        moves += 1
    assert moves == 4
    assert sorted(list(placed.values()).count(node) for node in nodes) == [2, 2, 3]


def test_a_worker_of_a_node_that_is_gone_is_left_to_ray() -> None:
    assert move_of({"a": "gone", "b": "here"}, ["here", "there"]) is None
