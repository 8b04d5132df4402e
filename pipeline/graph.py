"""The declaration of a pipeline: source, stages, sinks, their order, and a check that they fit together."""

from __future__ import annotations

import inspect
import os
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from pipeline.compute import Compute
from pipeline.edges import Sink, Source
from pipeline.errors import GraphError, first_mistake
from pipeline.extras import remedy
from pipeline.operator import KeyedOperator, Operator
from pipeline.packets import Chunk
from pipeline.policy import Policy

ROOMS = ("operators.", "pipeline.")  # a graph may name classes of these packages only: it is data, not code

Names = Annotated[tuple[str, ...], BeforeValidator(lambda v: (v,) if isinstance(v, str) else v)]


class Part(BaseModel):
    """A class by its path and the arguments to build it with."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    use: str
    args: dict[str, Any] = Field(default_factory=dict, alias="with")


class Stage(Part):
    """One node: which operator or sink, and after which stages. No ``after`` means: after the source.

    Attributes:
        aside: Its packets are not waited for and carry no order: explanations, which come when they come.
    """

    after: Names = ()
    aside: bool = False


class Declaration(BaseModel):
    """A graph file as it is written."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    vars: dict[str, str] = Field(default_factory=dict)
    policy: Policy = Policy()
    compute: Compute = Compute()
    source: Part | None = None
    stages: dict[str, Stage]
    sinks: dict[str, Stage] = Field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Stages by name, iterated upstream first.

    Raises:
        GraphError: An unknown name, a cycle, an operator that cannot be found, packets that do not fit.
    """

    stages: dict[str, Stage]
    source: Part | None = None
    sinks: dict[str, Stage] = field(default_factory=dict)
    policy: Policy = field(default_factory=Policy)
    compute: Compute = field(default_factory=Compute)
    order: tuple[str, ...] = field(init=False)
    with_state: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        if not self.stages:
            message = "the graph has no stages; declare at least one under `stages:`"
            raise GraphError(message)
        for name, stage in (*self.stages.items(), *self.sinks.items()):
            _check_names(name, stage, self.stages)
            _check_arguments(name, stage)
        _check_asides(self.stages)
        _check_sinks(self.sinks, self.stages)
        if self.source is not None:
            _check_source(self.source)
        try:
            order = tuple(TopologicalSorter({n: s.after for n, s in self.stages.items()}).static_order())
        except CycleError as error:
            message = f"stages form a cycle: {' -> '.join(reversed(error.args[1]))}; remove one `after`"
            raise GraphError(message) from error
        object.__setattr__(self, "order", order)
        with_state = frozenset(name for name in order if issubclass(find(self.stages[name].use), KeyedOperator))
        object.__setattr__(self, "with_state", with_state)
        self._check_packets()

    def __iter__(self) -> Iterator[tuple[str, Stage]]:
        return ((name, self.stages[name]) for name in self.order)

    def keyed(self, name: str) -> bool:
        """Whether the stage keeps state and must meet the batches of a stream in order.

        It was found out when the graph was declared: a process that only passes a graph on, or runs a part of it,
        does not load the others' nets to answer.
        """
        return name in self.with_state

    def build(self, part: Part, shared: Mapping[str, Any] | None = None) -> Any:
        """The object a part declares. Call it where it is to run.

        A constructor that takes ``policy`` or ``compute`` receives the graph's; so it is with all in ``shared``.
        """
        given = {"policy": self.policy, "compute": self.compute, **(shared or {})}
        return build({"use": part.use, "with": part.args}, given)

    def build_stage(self, name: str) -> Operator[Any, Any] | KeyedOperator[Any, Any, Any]:
        """The operator of the stage ``name``."""
        return cast("Operator[Any, Any] | KeyedOperator[Any, Any, Any]", self.build(self.stages[name]))

    def gives(self) -> dict[str, frozenset[type]]:
        """The packet types that come out of each stage."""
        given: dict[str, frozenset[type]] = {}
        for name, stage in self:
            given[name] = _fit(name, stage, given)
        return given

    def up_to(self, name: str) -> Graph:
        """The part of the graph that ``name`` needs, without sinks; enrolment runs such a part.

        Raises:
            GraphError: There is no such stage.
        """
        if name not in self.stages:
            message = f"the graph has no stage {name!r}; its stages are {sorted(self.stages)}"
            raise GraphError(message)
        needed = {name}
        for stage in reversed(self.order):
            if stage in needed:
                needed.update(self.stages[stage].after)
        stages = {n: s for n, s in self.stages.items() if n in needed}
        return Graph(stages, self.source, policy=self.policy, compute=self.compute)

    def only_sinks(self, names: Iterable[str]) -> Graph:
        """The same graph with these sinks alone; what was checked is not checked again."""
        fewer = copy(self)
        object.__setattr__(fewer, "sinks", {name: self.sinks[name] for name in names})
        return fewer

    def _check_packets(self) -> None:
        given = self.gives()
        for name, sink in self.sinks.items():
            taken = packet_types(find(sink.use), Sink, 0)
            for up in sink.after:
                _must_take(up, given[up], name, taken)


def _check_names(name: str, stage: Stage, stages: Mapping[str, Stage]) -> None:
    if unknown := sorted(set(stage.after) - set(stages)):
        message = f"{name!r} comes after unknown {unknown}; the stages are {sorted(stages)}"
        raise GraphError(message)


def _check_asides(stages: Mapping[str, Stage]) -> None:
    for name, stage in stages.items():
        for up in stage.after:
            if stages[up].aside:
                message = f"{name!r} comes after {up!r}, which runs aside; only sinks may"
                raise GraphError(message)


def _check_sinks(sinks: Mapping[str, Stage], stages: Mapping[str, Stage]) -> None:
    for name, sink in sinks.items():
        if name in stages:
            message = f"{name!r} is a stage and a sink; give them different names"
            raise GraphError(message)
        if not sink.after:
            message = f"{name!r} is a sink and needs `after:`; the stages are {sorted(stages)}"
            raise GraphError(message)


def _check_source(source: Part) -> None:
    _check_arguments("source", source)
    if Source not in find(source.use).__mro__:
        message = f"'source': {source.use} is no Source; name one of pipeline.edges"
        raise GraphError(message)


def _check_arguments(name: str, part: Part) -> None:
    """Whether the constructor takes what it is given; the same for every part inside of the arguments."""
    parameters = inspect.signature(find(part.use)).parameters
    if bad := sorted(set(part.args) - set(parameters)):
        message = f"{name!r}: {part.use} takes no argument {bad}; it takes {sorted(parameters)}"
        raise GraphError(message)
    needed = {key for key, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_KEYWORD}
    if missing := sorted(needed - set(part.args) - {"policy", "compute"}):
        message = f"{name!r}: {part.use} needs {missing}; give them under `with:`"
        raise GraphError(message)
    for inner in filter(_is_part, part.args.values()):
        _check_arguments(name, _part(name, inner))


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and "use" in value


def _part(name: str, spec: dict[str, Any]) -> Part:
    try:
        return Part(**spec)
    except ValidationError as error:
        message = f"{name!r}: {first_mistake(error)}"
        raise GraphError(message) from error


def _fit(name: str, stage: Stage, given: Mapping[str, frozenset[type]]) -> frozenset[type]:
    """What ``stage`` gives, once it is sure that it takes what it is given."""
    operator = find(stage.use)
    shape = KeyedOperator if issubclass(operator, KeyedOperator) else Operator
    taken = packet_types(operator, shape, 0)
    if not stage.after:
        _must_take("source", frozenset({Chunk}), name, taken)
    for up in stage.after:
        _must_take(up, given[up], name, taken)
    passes_through = packet_types(operator, shape, 1) == taken and _is_variable(operator, shape)
    if passes_through and stage.after:
        return frozenset().union(*(given[up] for up in stage.after))
    return packet_types(operator, shape, 1)


def _must_take(up: str, given: frozenset[type], name: str, taken: frozenset[type]) -> None:
    for packet in sorted(given, key=lambda t: t.__name__):
        if not issubclass(packet, tuple(taken)):
            wants = " or ".join(sorted(t.__name__ for t in taken))
            message = f"{up!r} gives {packet.__name__} but {name!r} takes {wants}"
            raise GraphError(message)


def _arguments(kind: type, shape: Any) -> tuple[Any, ...]:
    for base in getattr(kind, "__orig_bases__", ()):
        if get_origin(base) is shape:
            return get_args(base)
    message = f"{kind.__module__}:{kind.__name__} must subclass {shape.__name__}[...] and name its packets"
    raise GraphError(message)


def _is_variable(kind: type, shape: Any) -> bool:
    return isinstance(_arguments(kind, shape)[0], TypeVar)


def packet_types(kind: type, shape: Any, position: int) -> frozenset[type]:
    """The packets at ``position`` of ``class kind(shape[...])``; a union gives all its members."""
    argument = _arguments(kind, shape)[position]
    if isinstance(argument, TypeVar):
        argument = argument.__bound__ or object
    return frozenset(get_args(argument) if get_origin(argument) in {Union, types.UnionType} else (argument,))


def find(path: str) -> type:
    """The class at ``module:Name``, in the packages that a graph may name."""
    module, _, name = path.partition(":")
    if not path.startswith(ROOMS):
        message = f"cannot use {path!r}: a graph may name classes of operators and pipeline only"
        raise GraphError(message)
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        message = f"cannot find {path!r}: {remedy(error)}"
        raise GraphError(message) from error
    if not inspect.isclass(found):
        message = f"{path!r} is no class"
        raise GraphError(message)
    return found


def build(spec: Any, given: Mapping[str, Any]) -> Any:
    """``{use: module:Name, with: {...}}`` becomes an object, at any depth; anything else is itself.

    ``given`` holds what the whole graph shares; a constructor that names one of them receives it.
    """
    if not _is_part(spec):
        return spec
    kind = find(spec["use"])
    shared = {key: value for key, value in given.items() if key in inspect.signature(kind).parameters}
    return kind(**{**shared, **{key: build(value, given) for key, value in spec.get("with", {}).items()}})


def load(path: str | Path, values: Mapping[str, str] | None = None) -> Graph:
    """Read a graph file and check it.

    ``${name}`` inside a string is replaced, after parsing, by ``values``, else by the environment,
    else by the file's own ``vars``.

    Raises:
        GraphError: The file cannot be read, has a key or name that is not known, or does not fit together.
    """
    declared = _parse(Path(path))
    defaults = declared.get("vars") or {}
    if not isinstance(defaults, dict):
        message = f"{path}: `vars` must be a mapping of names to values"
        raise GraphError(message)
    variables = {**defaults, **{k: v for k, v in os.environ.items() if k in defaults or k.isupper()}, **(values or {})}
    if stray := sorted(set(values or {}) - set(defaults)):
        message = f"{path} has no variable {stray}; its variables are {sorted(defaults)}"
        raise GraphError(message)
    try:
        declaration = Declaration(**_substitute(declared, variables, Path(path)))
    except (ValidationError, TypeError) as error:
        message = f"{path}: {first_mistake(error)}"
        raise GraphError(message) from error
    return Graph(
        declaration.stages,
        declaration.source,
        declaration.sinks,
        policy=declaration.policy,
        compute=declaration.compute,
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        parsed = yaml.safe_load(path.read_text())
    except OSError as error:
        message = f"cannot read the graph {path}: {error.strerror}"
        raise GraphError(message) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = f"{path} is not YAML: {' '.join(str(error).split())}"
        raise GraphError(message) from error
    if not isinstance(parsed, dict):
        message = f"{path} must be a mapping with `stages:`"
        raise GraphError(message)
    return parsed


def _substitute(value: Any, variables: Mapping[str, str], path: Path) -> Any:
    def replace(match: re.Match[str]) -> str:
        if match[1] not in variables:
            message = f"{path}: ${{{match[1]}}} has no value; give it on the command line or in the environment"
            raise GraphError(message)
        return str(variables[match[1]])

    if isinstance(value, str):
        return re.sub(r"\$\{(\w+)\}", replace, value)
    if isinstance(value, dict):
        return {key: _substitute(item, variables, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_substitute(item, variables, path) for item in value]
    return value
