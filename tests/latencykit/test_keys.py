import dataclasses
import json
from typing import Any

import pytest

from latencykit.errors import InputError
from latencykit.kernels import CALL_OVERHEAD
from latencykit.keys import Edge, Key, Primitive, key_id, key_level, key_to_json
from latencykit.spec import Add, Conv, Identity, Zero
from tests.latencykit.made_up import TINY, relu_kernel

CONV = Primitive((Conv(4),), ((2, 8, 8),))
EDGE = Edge(TINY, "down", 0, "max_pool")
FIXED = Edge(TINY, None, 0, "")
KEYS: list[Key] = [
    *(relu_kernel(2), relu_kernel(4), CALL_OVERHEAD),
    *(CONV, Primitive((Add(),), ((2, 8, 8),) * 2)),
    *(Primitive((Zero(),), ((2, 8, 8),)), Primitive((Identity(),), ((2, 8, 8),))),
    *(EDGE, FIXED, dataclasses.replace(EDGE, pace_hz=30.0), dataclasses.replace(FIXED, pace_hz=30.0)),
    *(Edge(TINY, "down", 1, "max_pool"), Edge(TINY, "contracting", 0, "max_pool"), Edge(TINY, "down", 0, "avg_pool")),
    Edge(dataclasses.replace(TINY, quality_stride=2), "down", 0, "max_pool"),
]  # fmt: skip


def test_a_key_s_name_is_its_own_and_begins_with_its_level():
    assert len({key_id(key) for key in KEYS}) == len(KEYS)
    assert all(key_id(key).startswith(f"{key_level(key)}-") for key in KEYS)
    assert {key_level(key) for key in KEYS} == {"isolated", "kernel", "edge"}


def test_a_key_s_name_is_that_of_its_content_and_stays_as_it_was():
    assert key_id(CONV) == key_id(Primitive((Conv(4),), ((2, 8, 8),)))
    assert key_id(EDGE) == key_id(Edge(dataclasses.replace(TINY), "down", 0, "max_pool"))
    assert key_id(relu_kernel(2)) == "kernel-feb444e2a336e678"
    assert key_id(CONV) == "isolated-4aef8086e234ee13"
    assert key_id(EDGE) == "edge-52be9cd0273f936d"


def test_keys_are_json_and_no_two_are_the_same():
    assert len({json.dumps(key_to_json(key), allow_nan=False) for key in KEYS}) == len(KEYS)


def test_a_key_says_what_it_is():
    assert str(Primitive((Add(),), ((2, 8, 8),) * 2)) == "Add() on 2x8x8 + 2x8x8"
    assert str(EDGE) == "down edge 0 max_pool, strides 1 and 1"
    assert str(dataclasses.replace(FIXED, pace_hz=30.0)) == "everything not chosen, strides 1 and 1 at 30 Hz"


@pytest.mark.parametrize(
    "change",
    [
        {"index": 9},
        {"index": -1},
        {"index": 10**400},
        {"candidate": "conv"},
        {"candidate": "zero"},
        {"candidate": ""},
        {"candidate": "x" * 10**6},
        {"cell_type": "up", "index": 0},
        {"cell_type": None},
        {"cell_type": None, "candidate": "", "index": 1},
        {"pace_hz": 0.0},
        {"pace_hz": -30.0},
        {"pace_hz": float("nan")},
        {"pace_hz": float("inf")},
        {"macro": dataclasses.replace(TINY, cell_nodes=1), "index": 2, "candidate": "max_pool"},
    ],
    ids=lambda change: str(change)[:50],
)
def test_an_edge_that_no_cell_has_is_refused(change: dict[str, Any]):
    with pytest.raises(InputError, match=r"no such edge or candidate|calls a second") as caught:
        dataclasses.replace(EDGE, **change)
    assert len(str(caught.value)) < 300
