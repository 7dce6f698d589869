"""Latency tables for neural networks on a CPU: measure, prove, predict.

The public names are loaded when first used, so that a measuring process imports nothing that it does not need.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latencykit.agreement import Validation
    from latencykit.architecture import network_graph, read_architecture, write_architecture
    from latencykit.baselines import Baseline, baseline_graph
    from latencykit.bench import measure
    from latencykit.compare import Comparison, compare
    from latencykit.doctor import doctor
    from latencykit.edges import SearchCosts, cost
    from latencykit.graph import Graph, Node
    from latencykit.host import CpuFacts, read_cpu
    from latencykit.kernels import Kernel, kernels_of
    from latencykit.lowering import graph_to_onnx, onnx_to_graph
    from latencykit.macro import Macro
    from latencykit.measurement import Measurement, Protocol
    from latencykit.outside import check_outside, outside_kernels
    from latencykit.predict import predict_graph, predict_isolated, predict_kernels
    from latencykit.runtime import Session, Setting
    from latencykit.sample import sample_architectures
    from latencykit.selection import choose_networks
    from latencykit.selftest import SelfTest, selftest
    from latencykit.space import Architecture, instantiate, template
    from latencykit.table import Table
    from latencykit.table_file import load_table, save_table
    from latencykit.validate import validate

_HOMES = {
    "Architecture": "space",
    "Baseline": "baselines",
    "Comparison": "compare",
    "CpuFacts": "host",
    "Graph": "graph",
    "Kernel": "kernels",
    "Macro": "macro",
    "Measurement": "measurement",
    "Node": "graph",
    "Protocol": "measurement",
    "SearchCosts": "edges",
    "SelfTest": "selftest",
    "Session": "runtime",
    "Setting": "runtime",
    "Table": "table",
    "Validation": "agreement",
    "baseline_graph": "baselines",
    "check_outside": "outside",
    "choose_networks": "selection",
    "cost": "edges",
    "compare": "compare",
    "doctor": "doctor",
    "graph_to_onnx": "lowering",
    "instantiate": "space",
    "kernels_of": "kernels",
    "load_table": "table_file",
    "measure": "bench",
    "network_graph": "architecture",
    "onnx_to_graph": "lowering",
    "outside_kernels": "outside",
    "predict_graph": "predict",
    "predict_isolated": "predict",
    "predict_kernels": "predict",
    "read_architecture": "architecture",
    "read_cpu": "host",
    "sample_architectures": "sample",
    "save_table": "table_file",
    "selftest": "selftest",
    "template": "space",
    "validate": "validate",
    "write_architecture": "architecture",
}

__all__ = [
    "Architecture",
    "Baseline",
    "Comparison",
    "CpuFacts",
    "Graph",
    "Kernel",
    "Macro",
    "Measurement",
    "Node",
    "Protocol",
    "SearchCosts",
    "SelfTest",
    "Session",
    "Setting",
    "Table",
    "Validation",
    "baseline_graph",
    "check_outside",
    "choose_networks",
    "compare",
    "cost",
    "doctor",
    "graph_to_onnx",
    "instantiate",
    "kernels_of",
    "load_table",
    "measure",
    "network_graph",
    "onnx_to_graph",
    "outside_kernels",
    "predict_graph",
    "predict_isolated",
    "predict_kernels",
    "read_architecture",
    "read_cpu",
    "sample_architectures",
    "save_table",
    "selftest",
    "template",
    "validate",
    "write_architecture",
]


class _Package(ModuleType):
    """Keeps `cost`, `doctor` and their like the functions: importing a submodule would bind its name here."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'latencykit' has no attribute {name!r}")
    return getattr(import_module(f"latencykit.{_HOMES[name]}"), name)
