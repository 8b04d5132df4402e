"""``omote check`` and ``omote show``: is the graph sound, and what does it look like."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from pipeline.commands.options import GraphFile, Values, values
from pipeline.graph import Graph, load


def check(graph: GraphFile, variables: Values = None) -> None:
    """Check names, cycles, packet types and arguments of a graph; exit with 1 and one sentence if they are wrong."""
    found = load(graph, values(variables))
    Console().print(f"{graph}: {len(found.stages)} stages and {len(found.sinks)} sinks fit together", highlight=False)


def show(
    graph: GraphFile,
    variables: Values = None,
    mermaid: Annotated[bool, typer.Option(help="Draw it as Mermaid, for a page.")] = False,
) -> None:
    """Draw the graph: every stage, what it takes and what it gives."""
    found = load(graph, values(variables))
    Console(soft_wrap=True).print(as_mermaid(found) if mermaid else as_text(found), highlight=False, markup=False)


def as_text(graph: Graph) -> str:
    """One line a stage, upstream first."""
    given = {name: " | ".join(sorted(t.__name__ for t in types)) for name, types in graph.gives().items()}
    rows = [("source", "", graph.source.use if graph.source else "(given when it runs)", "Chunk")]
    for name, stage in graph:
        marks = [mark for mark, on in (("keyed", graph.keyed(name)), ("aside", stage.aside)) if on]
        rows.append((name, ", ".join(stage.after) or "source", " ".join([stage.use, *marks]), given[name]))
    rows += [(name, ", ".join(sink.after), sink.use, "") for name, sink in graph.sinks.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{after:>{widths[1]}} {'→' if after else ' '} {name:<{widths[0]}}  {use:<{widths[2]}}  {gives}".rstrip()
        for name, after, use, gives in rows
    )


def as_mermaid(graph: Graph) -> str:
    """A flowchart whose arrows carry the packets."""
    given = {name: " or ".join(sorted(t.__name__ for t in types)) for name, types in graph.gives().items()}
    lines = ["flowchart LR", "    source([source])"]
    for name, stage in graph:
        lines.append(f"    {name}{'[[' if graph.keyed(name) else '['}{name}{']]' if graph.keyed(name) else ']'}")
        arrow = "-.->" if stage.aside else "-->"
        lines += [f"    {up} {arrow}|{given[up]}| {name}" for up in stage.after] or [f"    source -->|Chunk| {name}"]
    for name, sink in graph.sinks.items():
        lines += [f"    {name}[({name})]", *(f"    {up} --> {name}" for up in sink.after)]
    return "\n".join(lines)
