import numpy as np
import pytest

from latencykit.errors import InputError
from nas.evaluate import predict


def oracle(data, dice=0.9):
    """Knows every mask, and says the same Dice of each."""
    known = {data.rgb(index).tobytes(): data.masks[index] for index in range(len(data))}

    def predictor(image):
        mask = known[image.tobytes()][None, None].astype(np.float32)
        return {"mask": 0.2 + 0.6 * mask, "uncertainty": 0.25 * mask, "dice": np.full((1, 1), dice, np.float32)}

    return predictor


def test_masks_and_dice_come_frame_by_frame(data):
    predictions = predict(data, oracle(data, 0.25))
    assert np.array_equal(predictions.masks, data.masks == 1)
    assert (predictions.dice == 0.25).all()
    assert predictions.uncertainty == pytest.approx(np.full(len(data), 0.25))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dice": None}, "'dice' is absent"),
        ({"mask": np.zeros((1, 1, 64, 64))}, "'mask' is"),
        ({"uncertainty": None}, "'uncertainty' is absent"),
        ({"dice": np.full((1, 1), np.nan)}, "not finite on frame 0"),
    ],
)
def test_outputs_that_are_not_the_contracts_are_refused(data, changes, message):
    def predictor(image):
        outputs = oracle(data)(image) | changes
        return {name: value for name, value in outputs.items() if value is not None}

    with pytest.raises(InputError, match=message):
        predict(data, predictor)
