import json

import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial.distance import cdist

from latencykit.errors import InputError
from nas.metrics import TrivialScore, auroc, frame_scores, pearson_r


def rectangle(top, left, height, width, side=64):
    mask = np.zeros((side, side), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def score(predicted, true, quality=None, spacing=(1.0, 1.0), constant=0.8, **options):
    predicted, true = np.stack(predicted), np.stack(true)
    quality = np.full(len(true), 0.8) if quality is None else np.array(quality)
    return frame_scores(predicted, true, quality, np.tile(spacing, (len(true), 1)), constant, **options).summary()


def test_two_empty_masks_agree_and_have_no_surface():
    empty = np.zeros((64, 64), bool)
    scores = score([empty], [empty])
    assert scores.dice == 1
    assert (scores.hd95_mm, scores.asd_mm, scores.frames_without_surface) == (None, None, 1)


def test_an_empty_prediction_scores_0_and_is_left_out_of_the_distances():
    a, empty = rectangle(10, 10, 20, 20), np.zeros((64, 64), bool)
    scores = score([a, empty], [a, a])
    assert scores.dice == pytest.approx(0.5)
    assert (scores.hd95_mm, scores.asd_mm, scores.frames_without_surface, scores.frames) == (0, 0, 1, 2)


def test_dice_is_the_mean_over_images_not_over_pixels():
    big, small = rectangle(0, 0, 60, 60), rectangle(0, 0, 2, 2)
    assert score([big, rectangle(10, 10, 2, 2)], [big, small]).dice == pytest.approx(0.5)


def test_half_an_overlap_is_a_dice_of_a_half():
    assert score([rectangle(0, 0, 10, 10)], [rectangle(5, 0, 10, 10)]).dice == pytest.approx(0.5)


def test_distances_agree_with_all_pairs_of_edge_pixels_in_millimetres():
    a, b, spacing = rectangle(10, 12, 21, 17), rectangle(14, 10, 25, 22), np.array([0.5, 0.8])
    edges = [np.argwhere(mask & ~binary_erosion(mask)) * spacing for mask in (a, b)]
    between = cdist(*edges)
    there, back = between.min(axis=1), between.min(axis=0)
    scores = score([a], [b], spacing=spacing)
    assert scores.asd_mm == pytest.approx(np.concatenate((there, back)).mean(), rel=1e-5)
    assert scores.hd95_mm == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI 1.6 warns about its own call
def test_distances_agree_with_monais_own_metrics():
    from monai.metrics.hausdorff_distance import compute_hausdorff_distance
    from monai.metrics.surface_distance import compute_average_surface_distance

    rng = np.random.default_rng(0)
    a, b = (
        rectangle(5, 5, 40, 30) & (rng.random((64, 64)) > 0.02),
        rectangle(9, 2, 40, 40) & (rng.random((64, 64)) > 0.02),
    )
    masks, options = (a[None, None], b[None, None]), {"include_background": True, "spacing": (0.4, 0.3)}
    scores = score([a], [b], spacing=(0.4, 0.3))
    assert scores.hd95_mm == pytest.approx(
        float(compute_hausdorff_distance(*masks, percentile=95, **options)), rel=1e-5
    )
    assert scores.asd_mm == pytest.approx(
        float(compute_average_surface_distance(*masks, symmetric=True, **options)), rel=1e-5
    )


def test_each_frame_has_its_own_spacing():
    a, b = rectangle(10, 10, 20, 20), rectangle(13, 10, 20, 20)
    masks, shifted = np.stack([a, a]), np.stack([b, b])
    frames = frame_scores(masks, shifted, np.array([0.5, 0.5]), np.array([[1.0, 1.0], [2.0, 2.0]]), 0.8)
    assert frames.hd95_mm[1] == pytest.approx(2 * frames.hd95_mm[0])


def test_a_mask_that_touches_the_border_has_a_surface():
    full = np.ones((64, 64), bool)
    assert score([full], [full]).frames_without_surface == 0


def test_errors_of_the_prediction_and_of_the_constant_stand_side_by_side():
    a = rectangle(0, 0, 10, 10)
    scores = score([a, rectangle(5, 0, 10, 10)], [a, a], quality=[0.9, 0.7], constant=0.75)
    assert scores.mae == pytest.approx(0.15)
    assert scores.mae_constant == pytest.approx(0.25)
    assert scores.pearson_r == pytest.approx(1)
    assert scores.auroc == 1


def test_trivial_scores_stand_beside_the_quality_network_s():
    """A small mask and much uncertainty speak for a bad frame; here the first is right and the second is not."""
    whole, half = rectangle(0, 0, 10, 10), rectangle(0, 0, 10, 4)
    uncertain = np.array([0.3, 0.2, 0.1])
    scores = score([whole, half, whole], [whole] * 3, quality=[0.5, 0.9, 0.6], uncertainty=uncertain)
    assert scores.trivial["mask area"] == TrivialScore(pytest.approx(1), 1)
    assert scores.trivial["uncertainty"] == TrivialScore(pytest.approx(0), 0.5)
    assert scores.auroc == 0
    assert score([whole], [whole]).trivial.keys() == {"mask area"}


def test_a_constant_prediction_has_no_correlation():
    a = rectangle(0, 0, 10, 10)
    assert score([a, rectangle(5, 0, 10, 10)], [a, a]).pearson_r is None
    assert pearson_r(np.array([0.5]), np.array([0.5])) is None


def test_the_auroc_counts_ties_half_and_needs_both_classes():
    positive = np.array([True, True, False, False])
    assert auroc(np.array([4.0, 3, 2, 1]), positive) == 1
    assert auroc(np.array([1.0, 2, 3, 4]), positive) == 0
    assert auroc(np.ones(4), positive) == 0.5
    assert auroc(np.ones(4), np.zeros(4, bool)) is None


def test_the_acceptance_decides_what_a_bad_frame_is():
    a = rectangle(0, 0, 10, 10)
    predicted, true = [a, rectangle(2, 0, 10, 10)], [a, a]
    assert score(predicted, true, quality=[0.9, 0.5]).auroc is None
    assert score(predicted, true, quality=[0.9, 0.5], acceptance=0.9).auroc == 1


def test_masks_of_0_and_1_bytes_are_masks_and_other_values_are_refused():
    a = rectangle(0, 0, 10, 10)
    assert score([a], [a.astype(np.uint8)]).dice == 1
    with pytest.raises(InputError, match="masks_true holds uint8"):
        score([a], [a.astype(np.uint8) * 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks_true": np.zeros((2, 8, 9), bool)}, "masks_true has the shape"),
        ({"masks_predicted": np.zeros((8, 8), bool)}, "frames x height x width"),
        ({"dice_predicted": np.array([0.5])}, "dice_predicted has the shape"),
        ({"dice_predicted": np.array([0.5, np.nan])}, "not finite"),
        ({"spacing_mm": np.zeros((2, 2))}, "above 0 millimetres"),
        ({"dice_constant": 1.5}, "dice_constant is 1.5"),
        ({"acceptance": -1.0}, "acceptance is -1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message):
    good = {
        "masks_predicted": np.zeros((2, 8, 8), bool),
        "masks_true": np.zeros((2, 8, 8), bool),
        "dice_predicted": np.array([0.5, 0.6]),
        "spacing_mm": np.ones((2, 2)),
        "dice_constant": 0.8,
        "acceptance": 0.7,
    }
    with pytest.raises(InputError, match=message):
        frame_scores(**good | change)


def test_no_frames_are_no_scores():
    nothing = np.zeros((0, 8, 8), bool)
    with pytest.raises(InputError, match="no frame"):
        frame_scores(nothing, nothing, np.zeros(0), np.zeros((0, 2)), 0.8).summary()


def test_a_subset_is_scored_as_if_it_were_alone():
    a, b = rectangle(0, 0, 10, 10), rectangle(5, 0, 10, 10)
    frames = frame_scores(np.stack([a, b, b]), np.stack([a, a, b]), np.array([0.9, 0.5, 0.7]), np.ones((3, 2)), 0.8)
    alone = frame_scores(np.stack([b, b]), np.stack([a, b]), np.array([0.5, 0.7]), np.ones((2, 2)), 0.8)
    assert frames.select(np.array([1, 2])).summary() == alone.summary()
    assert frames.select(np.array([1, 1, 1])).summary().dice == pytest.approx(0.5)


def test_scores_are_json():
    a = rectangle(0, 0, 10, 10)
    data = json.loads(json.dumps(score([a], [a]).as_dict()))
    assert {"dice", "hd95_mm", "asd_mm", "mae", "mae_constant", "pearson_r", "auroc"} <= set(data)
