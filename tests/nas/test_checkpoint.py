import json
import pickle

import pytest
import torch
from torch import nn

from latencykit.errors import InputError
from nas import checkpoint as files
from nas.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

FIRST = Checkpoint({"a": torch.arange(3.0)}, {"epoch": 1})
SECOND = Checkpoint({"a": torch.ones(3), "b/c": torch.tensor(2)}, {"epoch": 2, "history": [{"loss": 0.5}]})


def same(found, expected):
    assert found.state == expected.state
    assert set(found.tensors) == set(expected.tensors)
    assert all(torch.equal(found.tensors[name], value) for name, value in expected.tensors.items())


def test_what_was_saved_last_is_loaded_and_the_old_tensors_are_gone(tmp_path):
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, FIRST)
    save_checkpoint(tmp_path, SECOND)
    same(load_checkpoint(tmp_path), SECOND)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("step", ["write_bytes", "write_json"])
def test_a_save_that_fails_on_the_way_leaves_the_old_checkpoint(tmp_path, monkeypatch, step):
    save_checkpoint(tmp_path, FIRST)

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(files, step, fail)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(tmp_path, SECOND)
    same(load_checkpoint(tmp_path), FIRST)
    save_checkpoint(tmp_path, SECOND)
    same(load_checkpoint(tmp_path), SECOND)


def test_no_pickle_is_ever_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("code ran",))

    path = tmp_path / "weights.safetensors"
    for hostile in (pickle.dumps(Bomb()), b"", b"\xff" * 64):
        path.write_bytes(hostile)
        with pytest.raises(InputError, match="not a safetensors file"):
            files.read_tensors(path)


def edit(folder, **changes):
    path = folder / files.STATE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 99}, "schema 1 expected"),
        ({"state": []}, "schema 1 expected"),
        ({"tensors": "../other.safetensors"}, "a file beside it"),
        ({"tensors": None}, "a file beside it"),
        ({"tensors": "gone.safetensors"}, "cannot be read"),
        ({"sha256": "0"}, "is not the file"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(tmp_path, changes, message):
    save_checkpoint(tmp_path, FIRST)
    edit(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path)


def test_another_runs_checkpoint_is_refused(tmp_path):
    mine, other = files.fingerprint(seed=0), files.fingerprint(seed=1)
    assert mine == files.fingerprint(seed=0)
    with pytest.raises(InputError, match="another configuration"):
        files.check_fingerprint(Checkpoint({}, {"fingerprint": other}), mine, tmp_path)


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not fit this network"):
        files.restore_module(nn.Linear(2, 3), nn.Linear(2, 4).state_dict(), tmp_path)


def test_prefixes_come_off_as_they_went_on():
    tensors = {"a": torch.ones(1), "b/c": torch.zeros(1)}
    both = files.prefixed("x", tensors) | files.prefixed("xy", {"a": torch.zeros(1)})
    assert files.without_prefix("x", both) == tensors


def make(kind):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    parameters = list(model.parameters())
    optimisers = {
        "sgd": lambda: torch.optim.SGD(parameters, 0.1, momentum=0.9),
        "adam": lambda: torch.optim.Adam(parameters, 0.1, (0.5, 0.999)),
        "adamw": lambda: torch.optim.AdamW(parameters, 0.1),
    }
    return model, optimisers[kind]()


def run(model, optimiser, steps):
    for step in steps:
        optimiser.zero_grad()
        model(torch.full((1, 3), step + 1.0)).square().sum().backward()
        optimiser.step()


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_a_restored_optimiser_goes_on_as_if_nothing_had_happened(tmp_path, kind):
    with torch.random.fork_rng():
        whole, optimiser = make(kind)
        run(whole, optimiser, range(6))
        half, optimiser = make(kind)
        run(half, optimiser, range(3))
        tensors = files.prefixed("w", half.state_dict()) | files.prefixed("o", files.optimiser_tensors(optimiser))
        save_checkpoint(tmp_path, Checkpoint(tensors, {}))
        tensors = load_checkpoint(tmp_path).tensors
        resumed, optimiser = make(kind)
    before = list(resumed.parameters())
    files.restore_module(resumed, files.without_prefix("w", tensors), tmp_path)
    files.restore_optimiser(optimiser, files.without_prefix("o", tensors))
    run(resumed, optimiser, range(3, 6))
    assert all(a is b for a, b in zip(before, optimiser.param_groups[0]["params"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
