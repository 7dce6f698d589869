from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from latencykit.errors import InputError
from nas.data.contact_sheet import contact_sheet


def test_a_sheet_of_a_good_and_a_degraded_set_is_a_picture(make, tmp_path):
    degraded = make(degraded=np.arange(10) % 3 == 0)
    contact_sheet([degraded, make(channels=3, patients=2, frames=1)], tmp_path / "sheet.png", seed=1)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1200
        red = (np.asarray(sheet.convert("RGB")) == (239, 71, 111)).all(axis=2)
    assert red.sum() > 500


def test_a_sheet_of_nothing_or_of_too_much_is_refused(make, tmp_path):
    with pytest.raises(InputError, match="contact sheet of 0"):
        contact_sheet([], tmp_path / "sheet.png")
    with pytest.raises(InputError, match="contact sheet of 5"):
        contact_sheet([make(patients=2, frames=1)] * 5, tmp_path / "sheet.png")
