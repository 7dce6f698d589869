import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from latencykit.errors import InputError
from latencykit.graph import chain
from latencykit.lowering import graph_to_onnx
from latencykit.runtime import Session, Setting, optimise, output_types, runtime_version
from latencykit.spec import Conv, Sigmoid
from latencykit.topology import physical_cpus

CPUS = physical_cpus()
on_linux = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be pinned here")
two_cores = pytest.mark.skipif(len(CPUS) < 2, reason="needs two physical cores that this process may use")
FREE = Setting(threads=1, pinned=False)


def graph_model(nodes: list[onnx.NodeProto], inputs: dict[str, tuple], outputs: dict[str, tuple]) -> bytes:
    """A model of float tensors."""
    infos = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in tensors.items()]
        for tensors in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "test", *infos)
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


@pytest.fixture(scope="module")
def conv() -> bytes:
    return graph_to_onnx(chain([Conv(16)], [(16, 32, 32)])).SerializeToString()


@pytest.mark.parametrize("garbage", [b"", b"not a model", b"\x00" * 64, b"\x08\x08\x12\x04"])
def test_bytes_that_are_no_model_are_bad_input(garbage: bytes):
    with pytest.raises(InputError, match="onnxruntime refuses the model"):
        Session(garbage, FREE, ())


def test_a_file_that_is_no_model_is_named(tmp_path: Path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(InputError, match=r"broken\.onnx"):
        Session(tmp_path / "broken.onnx", FREE, ())
    with pytest.raises(InputError, match=r"missing\.onnx"):
        Session(tmp_path / "missing.onnx", FREE, ())


@on_linux
def test_a_refused_model_leaves_the_affinity_alone():
    before = os.sched_getaffinity(0)
    with pytest.raises(InputError):
        Session(b"not a model", Setting(threads=1), CPUS[:1])
    assert os.sched_getaffinity(0) == before


def test_a_dimension_that_is_not_fixed_is_refused_by_name():
    model = graph_model([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, "height")}, {"y": (1, "height")})
    with Session(model, FREE, ()) as session, pytest.raises(InputError, match=r"'x'.*height.*fix every dimension"):
        session.random_inputs(0)


def test_a_model_that_loads_and_cannot_run_is_bad_input_before_it_is_timed():
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[1, 5]),
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["x", "whole"], ["y"]),
    ]
    model = graph_model(nodes, {"x": (2,)}, {"y": ("a", "b")})
    with Session(model, FREE, ()) as session, pytest.raises(InputError, match="cannot run it"):
        session.bound({"x": np.array([7, 9], np.float32)})


def test_outputs_come_by_name():
    nodes = [helper.make_node("Relu", ["x"], ["positive"]), helper.make_node("Neg", ["x"], ["negated"])]
    model = graph_model(nodes, {"x": (3,)}, {"negated": (3,), "positive": (3,)})
    with Session(model, FREE, ()) as session:
        found = session.run({"x": np.array([-1, 0, 2], np.float32)})
    assert list(found) == ["negated", "positive"]
    assert found["positive"].tolist() == [0, 0, 2]
    assert found["negated"].tolist() == [1, 0, -2]


def test_random_inputs_fill_every_input_reproducibly_between_0_and_1():
    model = graph_model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": (2, 3), "b": (2, 3)}, {"y": (2, 3)})
    with Session(model, FREE, ()) as session:
        assert session.inputs == {"a": (2, 3), "b": (2, 3)}
        first, again, other = (session.random_inputs(seed) for seed in (1, 1, 2))
    assert all(value.dtype == np.float32 and 0 <= value.min() <= value.max() < 1 for value in first.values())
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["a"], other["a"])


def test_inputs_have_the_type_that_the_model_asks_for():
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.INT64, (2,))],
        [helper.make_tensor_value_info("y", TensorProto.INT64, (2,))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    with Session(model, FREE, ()) as session:
        assert session.random_inputs(0)["x"].dtype == np.int64
        assert session.run(session.random_inputs(0))["y"].dtype == np.int64


def test_a_bound_call_can_be_repeated(conv: bytes):
    with Session(conv, FREE, ()) as session:
        call = session.bound(session.random_inputs(0))
        assert [call() for _ in range(3)] == [None] * 3


@on_linux
def test_the_calling_thread_is_pinned_and_let_go_again(conv: bytes):
    before = os.sched_getaffinity(0)
    with Session(conv, Setting(threads=1), CPUS[-1:]) as session:
        assert os.sched_getaffinity(0) == {CPUS[-1]}
        assert session.affinity == (str(CPUS[-1]),)
    assert os.sched_getaffinity(0) == before


@on_linux
@two_cores
@pytest.mark.parametrize("cpus", [CPUS[:2], CPUS[:2][::-1]])
def test_each_worker_thread_is_pinned_to_its_own_core(conv: bytes, cpus: tuple[int, ...]):
    def places() -> dict[str, str]:
        status = {task.name: (task / "status").read_text() for task in Path("/proc/self/task").iterdir()}
        return {name: text.split("Cpus_allowed_list:")[1].split()[0] for name, text in status.items()}

    before, threads = os.sched_getaffinity(0), set(places())
    with Session(conv, Setting(threads=2), cpus) as session:
        assert session.affinity == (str(cpus[0]), str(cpus[1]))
        assert [place for name, place in places().items() if name not in threads] == [str(cpus[1])]
        session.bound(session.random_inputs(0))()
    assert os.sched_getaffinity(0) == before


@on_linux
def test_an_error_inside_lets_the_calling_thread_go(conv: bytes):
    before = os.sched_getaffinity(0)
    with pytest.raises(ZeroDivisionError), Session(conv, Setting(threads=1), CPUS[:1]):
        _ = 1 / 0
    assert os.sched_getaffinity(0) == before


@on_linux
def test_a_session_on_another_thread_reports_that_thread(conv: bytes):
    found = []

    def work() -> None:
        with Session(conv, Setting(threads=1), CPUS[:1]) as session:
            found.append(session.affinity)

    before = os.sched_getaffinity(0)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(str(CPUS[0]),)]
    assert os.sched_getaffinity(0) == before


@on_linux
def test_a_setting_that_is_not_pinned_pins_nothing(conv: bytes):
    before = os.sched_getaffinity(0)
    with Session(conv, FREE, CPUS[:1]):
        assert os.sched_getaffinity(0) == before


def test_a_system_that_cannot_pin_still_runs(conv: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    with Session(conv, Setting(threads=1), (0,)) as session:
        assert session.run(session.random_inputs(0))["output"].shape == (1, 16, 32, 32)


@pytest.mark.parametrize(
    "setting",
    [
        Setting(threads=1, pinned=False),
        Setting(threads=2, pinned=False, spinning=False, denormals_as_zero=False, optimisation="basic"),
    ],
)
def test_every_part_of_a_setting_reaches_the_session(conv: bytes, setting: Setting):
    with Session(conv, setting, ()) as session:
        options = session._session.get_session_options()
        providers = session._session.get_providers()
    assert options.intra_op_num_threads == setting.threads
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.set_denormal_as_zero") == str(int(setting.denormals_as_zero))
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == str(int(setting.spinning))
    assert (
        options.graph_optimization_level.name
        == f"ORT_{ {'all': 'ENABLE_ALL', 'basic': 'ENABLE_BASIC'}[setting.optimisation] }"
    )
    assert providers == ["CPUExecutionProvider"]


_DENORMAL = """
import sys
from pathlib import Path
import numpy as np
from latencykit.runtime import Session, Setting
setting = Setting(threads=1, pinned=False, denormals_as_zero=sys.argv[2] == "1")
with Session(Path(sys.argv[1]), setting, ()) as session:
    print(int(session.run({"x": np.full(64, 1e-30, np.float32)})["y"].view(np.uint32).max() > 0))
"""


@pytest.mark.parametrize("as_zero", [True, False])
def test_denormals_become_zero_only_where_the_setting_says_so(tmp_path: Path, as_zero: bool):
    model = graph_model([helper.make_node("Mul", ["x", "x"], ["z"]), helper.make_node("Mul", ["x", "c"], ["y"])],
                        {"x": (64,), "c": (64,)}, {"y": (64,), "z": (64,)})  # fmt: skip
    proto = onnx.load_model_from_string(model)
    del proto.graph.input[1]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full(64, 1e-10, np.float32), "c"))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    command = [sys.executable, "-c", _DENORMAL, str(tmp_path / "m.onnx"), str(int(as_zero))]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ("0" if as_zero else "1")


def test_the_optimised_graph_is_written_and_differs_from_the_model(conv: bytes, tmp_path: Path):
    optimise(conv, FREE, tmp_path / "all.onnx")
    optimise(conv, dataclasses.replace(FREE, optimisation="none"), tmp_path / "none.onnx")
    optimised = [node.op_type for node in onnx.load(tmp_path / "all.onnx").graph.node]
    assert [node.op_type for node in onnx.load(tmp_path / "none.onnx").graph.node] == ["Conv", "Relu"]
    assert "Relu" not in optimised


def test_the_types_of_outputs_without_a_shape_are_inferred():
    model = onnx.load_model_from_string(graph_to_onnx(chain([Sigmoid()], [(2, 4, 4)])).SerializeToString())
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name="output"))
    assert output_types(model.SerializeToString()) == {"output": ("tensor(float)", (1, 2, 4, 4))}


def test_settings_are_equal_only_in_every_part():
    changes = [{"threads": 2}, {"pinned": False}, {"spinning": False}, {"denormals_as_zero": False}]
    changes.append({"optimisation": "basic"})
    different = {Setting(threads=1), *(dataclasses.replace(Setting(threads=1), **change) for change in changes)}
    assert len(different) == 6


def test_a_setting_survives_json():
    setting = Setting(threads=3, spinning=False)
    assert Setting(**json.loads(json.dumps(dataclasses.asdict(setting)))) == setting


def test_a_setting_in_words():
    assert str(Setting(threads=1)) == "1 thread, pinned"
    assert str(Setting(threads=2, pinned=False)) == "2 threads"


def test_the_runtime_has_a_version():
    assert all(part.isdigit() for part in runtime_version().split(".")[:2])
