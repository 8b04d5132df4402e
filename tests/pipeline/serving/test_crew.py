"""Which worker moves when nodes come and go, and who still counts as a worker."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace as Double
from typing import Any

import pytest

pytest.importorskip("ray")

from pipeline.scale import Scale
from pipeline.serving import crew as module
from pipeline.serving.crew import Crew, move_of
from pipeline.serving.stream_worker import Report
from pipeline.serving.streams import StreamSpec, WorkerView

OLD, NEW = "a" * 56, "b" * 56  # ids of nodes


class Actor:
    """A worker that answers at once; a worker without a node says nothing."""

    def __init__(self, name: str, node: str = "") -> None:
        self.look = self.stop = self.leave = self
        self.report = Report(WorkerView(name=name, state="running", node=node), [])
        self.silent = not node

    def remote(self) -> Actor:
        return self


@pytest.fixture
def hired(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Crew]:
    """``hired({name: node, ...})`` is a crew of such workers, without Ray; those that it starts are silent."""

    def hire(nodes: dict[str, str]) -> Crew:
        found = [{"name": f"omote-{name}", "namespace": "test"} for name in nodes]
        actors = {f"omote-{name}": Actor(name, node) for name, node in nodes.items()}
        monkeypatch.setattr(module, "list_named_actors", lambda **_: found)
        monkeypatch.setattr(module.ray, "get_actor", lambda name, _: actors[name])
        monkeypatch.setattr(module.ray, "wait", lambda asked, **_: ([each for each in asked if not each.silent], []))
        monkeypatch.setattr(module.ray, "get", lambda answer: answer.report)
        monkeypatch.setattr(module.ray, "kill", lambda *_, **__: None)
        started = Double(options=lambda name, **_: Double(remote=lambda *_: Actor(name)))
        monkeypatch.setattr(module.ray, "remote", lambda _: started)
        plan: Any = None
        return Crew(plan, Scale(), "omote", "test")

    return hire


def test_what_a_worker_says_after_its_end_counts_for_nothing(
    hired: Callable[[dict[str, str]], Crew], monkeypatch: pytest.MonkeyPatch
) -> None:
    crew = hired({"camera-gate": OLD, "camera-yard": OLD})
    ready = module.ray.wait

    def wait(asked: list[Actor], **more: Any) -> Any:
        monkeypatch.setattr(module.ray, "wait", ready)
        crew.end("camera-gate")  # while the answers are waited for
        return ready(asked, **more)

    monkeypatch.setattr(module.ray, "wait", wait)
    crew.ask()
    assert list(crew.reports) == crew.names == ["camera-yard"]


def test_workers_move_one_by_one_each_once_the_one_before_is_at_work(
    hired: Callable[[dict[str, str]], Crew], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {f"camera-{n}": StreamSpec(id=str(n), url="rtsp://camera.example/1") for n in range(4)}
    crew = hired(dict.fromkeys(wanted, OLD))
    free: dict[str, dict[str, float]] = {OLD: {"CPU": 1.0}, NEW: {}}
    monkeypatch.setattr(module, "available_resources_per_node", lambda: free)
    crew.ask()
    assert not crew.move(wanted), "to a node that has no CPU left"
    free[NEW]["CPU"] = 1.0
    assert crew.move(wanted)
    crew.ask()
    assert not crew.move(wanted), "while one that has moved says nothing"
    assert sorted(crew.reports) == ["camera-1", "camera-2", "camera-3"]


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


def test_a_node_without_room_is_passed_over_for_the_next_one() -> None:
    placed = dict.fromkeys("abcd", "old")
    assert move_of(placed, ["old", "other", "new"], full=["new"]) == ("a", "other")
    assert move_of(placed, ["old", "new"], full=["old", "new"]) is None


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
