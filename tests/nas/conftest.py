"""A tiny data set, macro configuration and costs, for tests that learn."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from latencykit.edges import SearchCosts
from latencykit.macro import Macro
from latencykit.space import CELL_TYPES, cell_edges
from nas.config import SEARCH_MODES, TrainConfig
from nas.data import Dataset
from tests.nas.tiny_run import TinyRun, tiny_run

CAMUS = Path(__file__).parents[3] / "shared/data/camus/camus_a4c_256.npz"


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny networks gain nothing from more, and lose much where the cores are shared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def discs(patients: int, frames: int = 2, seed: int = 0) -> Dataset:
    """Grey frames with one bright disc each, which is the mask."""
    rng = np.random.default_rng(seed)
    count = patients * frames
    rows, columns = np.mgrid[:256, :256]
    centre, radius = rng.uniform(80, 176, (2, count, 1, 1)), rng.uniform(40, 70, (count, 1, 1))
    masks = ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2).astype(np.uint8)
    images = np.clip(60 + 120 * masks + rng.normal(0, 20, masks.shape), 0, 255).astype(np.uint8)
    return Dataset(
        name="discs",
        images=images[:, None],
        masks=masks,
        patients=np.repeat([f"p{index:02}" for index in range(patients)], frames),
        splits=np.full(count, "train"),
        spacing_mm=np.ones((count, 2), np.float32),
        degraded=np.zeros(count, bool),
        frame=np.tile([str(index) for index in range(frames)], patients),
    )


@pytest.fixture(scope="session")
def data():
    return discs(20)


@pytest.fixture(scope="session")
def macro():
    return Macro(image_size=32, segmentation_widths=(4, 4, 4), quality_widths=(4, 4))


@pytest.fixture(scope="session")
def costs(macro):
    """A convolution costs 1 ms, dilated 2, separable 0.5, a pool 0.25, identity and zero nothing."""
    prices = {"identity": 0.0, "zero": 0.0, "max_pool": 0.25, "avg_pool": 0.25}
    edges_ms = {}
    for cell_type in CELL_TYPES:
        edges = cell_edges(cell_type, macro.cell_nodes)
        edges_ms[cell_type] = np.zeros((len(edges), 5))
        for index, edge in enumerate(edges):
            for slot, name in enumerate(edge.candidates):
                dear = 2.0 if "dilated" in name else 0.5 if "separable" in name else 1.0
                edges_ms[cell_type][index, slot] = prices.get(name, dear)
    return SearchCosts(fixed_ms=3.0, edges_ms=edges_ms, level="edge", residual_pct=0.0)


@pytest.fixture
def search_config():
    """The paper's, short."""
    return replace(SEARCH_MODES["paper"], epochs=3, warmup_epochs=1, batch_size=4, max_steps_per_epoch=2)


@pytest.fixture
def train_config():
    return TrainConfig(epochs=2, quality_epochs=2, batch_size=4, max_steps_per_epoch=2, precision="float32")


@pytest.fixture(scope="session")
def real_images():
    """Two real frames (2, 3, 256, 256)."""
    if not CAMUS.exists():
        pytest.skip(f"the shared CAMUS file is not at {CAMUS}")
    with np.load(CAMUS, allow_pickle=False) as file:
        grey = file["image"][[0, 100]]
    return np.repeat(grey[:, None].astype(np.float32) / 255, 3, axis=1)


@pytest.fixture(scope="session")
def finished_run(one_thread, tmp_path_factory) -> TinyRun:
    """A whole `nas run` on tiny data, without and then with `--final`; its folder is for reading only."""
    return tiny_run(tmp_path_factory.mktemp("run"))
