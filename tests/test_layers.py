"""Which module may import which, read from the sources; and the public surface.

`LAYERS` is the order: a module imports only from those before it, so there are no cycles. Add a new module where its
imports allow.
"""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import latencykit
from latencykit.kit import runner_sources

ROOT = Path(__file__).parents[1]

LAYERS = (
    *("errors", "bounds", "files", "lock", "archive", "schema"),
    *("system_files", "windows_topology", "cgroup", "topology", "host", "snapshot", "checks", "doctor"),
    *("spec", "graph", "primitives", "macro", "builder", "baselines", "space", "sample", "architecture", "minimisers"),
    *(
        "measurement",
        "judge",
        "timing",
        "runtime",
        "instructions",
        "worker",
        "lowering",
        "kernels",
        "sentinel",
        "bench",
    ),
    *("end_to_end", "journal"),
    *("rules", "evidence", "guard", "outside"),
    *("calibration", "keys", "table", "table_file", "interpolation", "predict"),
    *("coverage", "edges", "calibrate", "sweep", "lines", "kit_plan", "kit_work", "kit_runner", "kit_start"),
    *("selection", "agreement", "levels", "validate", "compare", "selftest"),
    *("figures", "comparison_figure", "report", "progress", "console", "kit", "kit_result", "kit_ingest"),
    *("commands", "commands.options", "commands.tables", "commands.networks", "commands.truth", "commands.compare"),
    *("commands.machine", "commands.kit", "cli"),
)

BUILDS_ONNX = {
    "instructions": "reads the block of the runtime's layout off a convolution",
    "lowering": "turns graphs into ONNX and back",
    "kernels": "reads the graph that the runtime has optimised, and cuts single kernels out of it",
    "rules": "says what a model from outside may hold",
    "evidence": "takes the weights out of optimised graphs, and reads what is left",
}

CLOCKS = {
    "perf_counter",
    "perf_counter_ns",
    "process_time",
    "process_time_ns",
    "thread_time",
    "timeit",
    "default_timer",
}


def modules(package: str) -> dict[str, ast.Module]:
    """Syntax trees of a package by module name, without the package's own."""
    folder = ROOT / package
    names = {path: ".".join(path.relative_to(folder).with_suffix("").parts) for path in folder.rglob("*.py")}
    return {
        name.removesuffix(".__init__"): ast.parse(path.read_text(encoding="utf-8"))
        for path, name in names.items()
        if name != "__init__"
    }


LATENCYKIT, NAS = modules("latencykit"), modules("nas")


def imported(tree: ast.AST) -> set[str]:
    """Full names of what is imported anywhere in a tree: `a.b`, and `a.b.c` for `from a.b import c`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    return found


def packages(tree: ast.AST) -> set[str]:
    """First parts of what is imported."""
    return {name.partition(".")[0] for name in imported(tree)}


def siblings(tree: ast.AST, package: str, known: Iterable[str]) -> set[str]:
    """Modules of a package that a tree imports."""
    found = imported(tree)
    return {name for name in known if f"{package}.{name}" in found}


def out_of_order(sources: dict[str, ast.Module], layers: tuple[str, ...]) -> list[str]:
    """Imports of modules that do not come before."""
    wrong = []
    for name, tree in sources.items():
        before = layers[: layers.index(name)]
        wrong += [f"{name} -> {other}" for other in siblings(tree, "latencykit", layers) if other not in before]
    return wrong


def closure(name: str) -> set[str]:
    """A module of latencykit and all that it imports of it, and what these import."""
    found, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current not in found:
            found.add(current)
            todo += siblings(LATENCYKIT[current], "latencykit", LATENCYKIT)
    return found


def third_parties(names: Iterable[str]) -> set[str]:
    """Packages outside of the standard library that some modules of latencykit import."""
    return set().union(*(packages(LATENCYKIT[name]) for name in names)) - sys.stdlib_module_names - {"latencykit"}


def packages_at_import(tree: ast.Module) -> set[str]:
    """First parts of what is imported when a module is; what only a type checker reads is left out."""
    found: set[str] = set()
    skipped = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for part in ast.walk(node)
    }
    for node in at_import(tree):
        if id(node) not in skipped and isinstance(node, ast.Import | ast.ImportFrom):
            found |= packages(ast.Module([node], []))
    return found


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Nodes that run when a module is imported: no bodies of functions, nothing under `__name__ == "__main__"`."""
    todo: list[ast.AST] = list(tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            continue
        yield node
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            todo += getattr(node, "decorator_list", [])
        else:
            todo += ast.iter_child_nodes(node)


def parsed_at_import(tree: ast.Module) -> list[str]:
    """What reads arguments, or starts a command line, when a module is imported."""
    found = []
    for node in at_import(tree):
        if isinstance(node, ast.Attribute) and node.attr in {"argv", "orig_argv"}:
            found.append(ast.unparse(node))
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called.rpartition(".")[2] in {"parse_args", "parse_known_args", "main", "cli", "run_cli", "exit"}:
                found.append(called)
    return found


def test_the_order_names_every_module_once() -> None:
    assert len(set(LAYERS)) == len(LAYERS)
    assert set(LAYERS) == set(LATENCYKIT)


def test_every_module_imports_only_from_those_before_it() -> None:
    assert out_of_order(LATENCYKIT, LAYERS) == []


def test_the_check_of_the_order_can_fail() -> None:
    sources = {
        "a": ast.parse("def f():\n    from latencykit.b import x"),
        "b": ast.parse("from latencykit import a"),
        "c": ast.parse("import latencykit.c"),
    }
    assert out_of_order(sources, ("a", "b", "c")) == ["a -> b", "c -> c"]


def test_imports_name_their_package_in_full() -> None:
    sources = {**LATENCYKIT, **{f"nas.{name}": tree for name, tree in NAS.items()}}
    assert [name for name, tree in sources.items() if any(n.startswith(".") for n in imported(tree))] == []


def test_nas_has_no_cycles() -> None:
    graph = {name: siblings(tree, "nas", NAS) - {name} for name, tree in NAS.items()}
    while free := [name for name, needs in graph.items() if not needs & graph.keys()]:
        for name in free:
            del graph[name]
    assert graph == {}


def test_nobody_imports_another_modules_private_names() -> None:
    sources = {**{f"latencykit.{n}": t for n, t in LATENCYKIT.items()}, **{f"nas.{n}": t for n, t in NAS.items()}}
    private = [
        f"{name}: {other}"
        for name, tree in sources.items()
        for other in imported(tree)
        if other.startswith(("latencykit.", "nas.")) and other.rpartition(".")[2].startswith("_")
    ]
    assert private == []


@pytest.mark.parametrize("package", ["nas", "torch"])
def test_latencykit_imports_neither_nas_nor_torch(package: str) -> None:
    init = ast.parse((ROOT / "latencykit/__init__.py").read_text(encoding="utf-8"))
    assert [name for name, tree in {**LATENCYKIT, "": init}.items() if package in packages(tree)] == []


def test_only_the_runtime_imports_onnxruntime() -> None:
    assert [name for name, tree in LATENCYKIT.items() if "onnxruntime" in packages(tree)] == ["runtime"]
    assert [name for name, tree in NAS.items() if "onnxruntime" in packages(tree)] == []


def test_only_the_modules_that_build_or_judge_models_import_onnx() -> None:
    assert {name for name, tree in LATENCYKIT.items() if "onnx" in packages(tree)} == set(BUILDS_ONNX)


def test_the_measuring_process_imports_numpy_and_onnxruntime_only() -> None:
    assert closure("worker") == {"worker", "errors", "measurement", "timing", "runtime"}
    assert third_parties(closure("worker")) == {"numpy", "onnxruntime"}


def test_the_process_that_opens_files_from_outside_imports_little() -> None:
    inside = {"guard", "rules", "evidence", "kernels", "runtime", "schema", "files", "bounds", "errors"}
    assert closure("guard") == inside
    assert third_parties(closure("guard")) == {"numpy", "onnx", "onnxruntime", "msgspec"}


def test_a_kit_needs_numpy_onnx_and_onnxruntime_on_its_target_and_nothing_else() -> None:
    modules_there = closure("kit_runner") | closure("worker")
    assert {"kit_runner", "sweep", "calibrate", "doctor", "worker", "table_file", "archive"} <= modules_there
    loaded = set().union(*(packages_at_import(LATENCYKIT[name]) for name in modules_there))
    assert loaded - sys.stdlib_module_names - {"latencykit"} == {"numpy", "onnx", "onnxruntime"}
    only_within_functions = {"psutil", "cpuinfo", "msgspec", "pandas"}
    assert third_parties(modules_there) - loaded == only_within_functions


def test_the_check_of_a_kit_s_imports_can_fail() -> None:
    assert packages_at_import(ast.parse("import click\ndef f():\n    import rich")) == {"click"}
    assert packages_at_import(ast.parse("if True:\n    from scipy import stats")) == {"scipy"}
    assert packages_at_import(ast.parse("if TYPE_CHECKING:\n    import pandas as pd")) == set()


def test_a_kit_holds_what_its_runner_imports() -> None:
    there = {f"latencykit/{name}.py" for name in closure("kit_runner") | closure("worker")}
    assert runner_sources().keys() == {*there, "latencykit/__init__.py"}


def test_choosing_processors_needs_the_standard_library_only() -> None:
    assert third_parties(closure("topology")) == {"psutil"}  # within a function, where nothing else tells the cores
    assert closure("topology") == {"topology", "cgroup", "system_files", "windows_topology", "errors"}


def test_what_third_parties_are_needed_is_seen_through_other_modules() -> None:
    assert {"numpy", "onnx", "onnxruntime", "msgspec"} <= third_parties(closure("kernels"))


def test_nas_never_times_anything_itself() -> None:
    timing = [
        f"{name}: {word}"
        for name, tree in NAS.items()
        for node in ast.walk(tree)
        for word in (getattr(node, "attr", None), getattr(node, "id", None), *getattr(node, "names", ()))
        if (word.name if isinstance(word, ast.alias) else word) in CLOCKS
    ]
    assert timing == []


def test_no_module_parses_arguments_when_imported() -> None:
    sources = {**LATENCYKIT, **{f"nas.{name}": tree for name, tree in NAS.items()}}
    assert {name: found for name, tree in sources.items() if (found := parsed_at_import(tree))} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nX = sys.argv[1]",
        "ARGS = parser.parse_args()",
        "if True:\n    main()",
        "class A:\n    x = sys.argv",
        "try:\n    cli()\nfinally:\n    pass",
    ],
)
def test_the_check_of_parsing_can_fail(text: str) -> None:
    assert parsed_at_import(ast.parse(text)) != []


@pytest.mark.parametrize("text", ["def f():\n    main()", "if __name__ == '__main__':\n    main()"])
def test_the_check_of_parsing_lets_functions_and_scripts_be(text: str) -> None:
    assert parsed_at_import(ast.parse(text)) == []


def modules_after(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after some code."""
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_latencykit_and_its_command_line_leave_torch_out() -> None:
    loaded = modules_after("import latencykit, latencykit.cli")
    assert "torch" not in loaded
    assert {"latencykit", "onnxruntime"} <= loaded


def test_the_check_for_torch_can_fail(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("")
    assert "torch" in modules_after(f"sys.path.insert(0, {str(tmp_path)!r})\nimport latencykit, torch")


def test_importing_latencykit_alone_loads_none_of_its_modules() -> None:
    script = "import sys, latencykit; print([n for n in sys.modules if n.startswith('latencykit.')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_the_public_surface_is_listed_once_and_has_homes() -> None:
    assert sorted(latencykit.__all__) == sorted(set(latencykit.__all__))
    assert set(latencykit.__all__) == set(latencykit._HOMES)


def test_type_checkers_see_the_same_surface() -> None:
    tree = ast.parse((ROOT / "latencykit/__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    seen = {
        alias.name: (node.module or "").removeprefix("latencykit.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == latencykit._HOMES


def test_every_public_name_is_what_its_home_defines_whatever_was_imported_before() -> None:
    """Importing the module `cost` must not hide the function `cost`."""
    for home in LAYERS:
        importlib.import_module(f"latencykit.{home}")
    for name, home in latencykit._HOMES.items():
        for _ in range(2):
            value = getattr(latencykit, name)
            assert not isinstance(value, ModuleType), name
            assert value is getattr(sys.modules[f"latencykit.{home}"], name)
        assert value.__module__ == f"latencykit.{home}"
        assert value.__doc__, name


def test_a_star_import_brings_the_whole_surface() -> None:
    namespace: dict[str, object] = {}
    exec("from latencykit import *", namespace)
    assert set(latencykit.__all__) <= namespace.keys()


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'latencykit' has no attribute 'warp'"):
        _ = latencykit.warp  # type: ignore[attr-defined]
