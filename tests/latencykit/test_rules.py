"""What an ONNX model from outside may hold."""

import onnx
import pytest
from onnx import helper

from latencykit import rules
from latencykit.errors import InputError
from latencykit.lowering import graph_to_onnx
from latencykit.rules import admit
from latencykit.sample import sample_architectures
from latencykit.space import instantiate
from tests.latencykit.hostile import REFUSED, changed, valid
from tests.latencykit.running import MACROS


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_must_not_get_in_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        admit(data)


def test_the_model_that_the_attacks_are_made_of_is_admitted() -> None:
    assert admit(valid().SerializeToString()) == valid()


@pytest.mark.parametrize("macro", MACROS.values(), ids=MACROS)
def test_every_model_of_our_own_is_admitted(macro) -> None:
    model = graph_to_onnx(instantiate(sample_architectures(macro, 1, 3)[0]))
    assert admit(model.SerializeToString()) == model


@pytest.mark.parametrize("domain", ["", "com.microsoft", "com.microsoft.nchwc"])
def test_the_domains_of_onnx_and_of_the_runtime_s_optimisations_are_admitted(domain: str) -> None:
    def move(model: onnx.ModelProto) -> None:
        model.graph.node[1].domain = domain
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    assert admit(changed(move)).graph.node[1].domain == domain


def test_a_domain_that_is_only_imported_does_no_harm() -> None:
    assert admit(changed(lambda m: m.opset_import.append(helper.make_opsetid("ai.onnx.training", 1))))


def test_a_dimension_may_be_open() -> None:
    """Measuring refuses it later, with what to do."""
    assert admit(changed(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_param", "batch")))


def test_more_bytes_than_a_model_may_have_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "MAX_MODEL_BYTES", 10)
    with pytest.raises(InputError, match=r"the model's size in bytes is \d+; expected at most 10"):
        admit(valid().SerializeToString())


def test_what_is_counted_before_parsing_is_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The valid model: four fields, the graph's six among them."""
    model = valid()
    entries = len(model.ListFields()) + sum(
        len(value) if hasattr(value, "__len__") and not isinstance(value, str) else 1
        for _, value in model.graph.ListFields()
    )
    monkeypatch.setattr(rules, "MAX_ENTRIES", entries)
    assert admit(model.SerializeToString())
    monkeypatch.setattr(rules, "MAX_ENTRIES", entries - 1)
    with pytest.raises(InputError, match="the number of its parts"):
        admit(model.SerializeToString())
