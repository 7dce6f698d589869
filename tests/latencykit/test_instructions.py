from dataclasses import replace
from pathlib import Path

import pytest

from latencykit import instructions
from latencykit.doctor import Verdict
from latencykit.graph import chain
from latencykit.host import cpu_id, read_cpu
from latencykit.instructions import as_used, block_channels, used_cpu
from latencykit.kernels import kernels_of
from latencykit.lowering import graph_to_onnx
from latencykit.runtime import Setting
from latencykit.spec import Conv
from latencykit.sweep import build, plan_build
from tests.latencykit.made_up import CPU, QUICK

FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_tile", "neon")


@pytest.fixture
def blocks_of_8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "block_channels", lambda: 8)


def test_the_block_is_what_kernels_of_a_network_are_padded_to(tmp_path: Path):
    model = graph_to_onnx(chain([Conv(8), Conv(3)], [(3, 8, 8)])).SerializeToString()
    widths = {k.inputs[1].shape[0] for k in kernels_of(model, Setting(1, pinned=False), tmp_path) if k.op == "Conv"}
    expected = {8: {8}, 16: {16}, 1: {8, 3}}
    assert widths == expected[block_channels()]


def test_nothing_beyond_avx2_is_used_where_blocks_are_8(blocks_of_8: None):
    facts = as_used(replace(CPU, isa=FLAGS))
    assert facts == replace(CPU, isa=("avx2", "avx_vnni", "neon"))
    assert cpu_id(facts).endswith("avx2-4c")
    assert used_cpu().isa == tuple(name for name in read_cpu().isa if not name.startswith(("avx512", "amx")))


@pytest.mark.parametrize("block", [1, 16])
def test_other_blocks_leave_the_facts_alone(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(instructions, "block_channels", lambda: block)
    assert as_used(replace(CPU, isa=FLAGS)).isa == FLAGS
    assert used_cpu() == read_cpu()


def test_a_table_bears_the_instruction_set_that_its_kernels_use(blocks_of_8: None, tmp_path: Path):
    path, wide = tmp_path / "table.json", Verdict(True, (), replace(CPU, isa=("avx2", "avx512f")))
    for _ in range(2):  # the second build finds the first one's table, of the same machine
        table = build(path, plan_build(path, [], []), wide, QUICK).table
        assert table.cpu.isa == ("avx2",)
        assert tuple(table.doctor["cpu"]["isa"]) == ("avx2", "avx512f")
