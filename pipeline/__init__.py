"""omote's engine: packets, the graph of operators, the walk over it, and its edges. It knows no face algorithm."""

from pipeline.compute import Compute
from pipeline.errors import PipelineError
from pipeline.graph import Graph, Stage, load
from pipeline.operator import KeyedOperator, Operator
from pipeline.policy import Policy

__all__ = ["Compute", "Graph", "KeyedOperator", "Operator", "PipelineError", "Policy", "Stage", "load"]
