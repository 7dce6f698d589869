from dataclasses import replace

import numpy as np
import pytest

from latencykit.errors import MissingRowError
from latencykit.interpolation import FEWEST_ROWS, interpolated_row, with_interpolated
from latencykit.kernels import Kernel, KernelInput
from tests.latencykit.made_up import MAPS, ONE, TWO, made_up_table, map_kernel, relu_kernel


def conv(channels: int, side: int, window: int = 3, groups: int = 1, stride: int = 1) -> Kernel:
    shape = (1, channels, side, side)
    inputs = (
        KernelInput("activation", "tensor(float)", shape),
        KernelInput("weight", "tensor(float)", (channels, channels // groups, window, window)),
    )
    attributes = (("group", groups), ("kernel_shape", (window, window)), ("strides", (stride, stride)))
    return Kernel(
        "Conv", "com.microsoft.nchwc", 1, attributes, inputs, 1, (1, channels, side // stride, side // stride)
    )


CONVS = [conv(channels, side) for channels in (16, 32, 48) for side in (16, 32, 64)]


def power_law_us(kernel: Kernel) -> float:
    return 1e-3 * kernel.macs**0.7 * kernel.moved_bytes**0.2


def test_a_cost_that_follows_work_and_bytes_is_met():
    table = made_up_table({k: 2 + power_law_us(k) for k in CONVS})
    for unseen in (conv(64, 32), conv(16, 128), conv(32, 48)):
        row = interpolated_row(table, ONE, unseen)
        assert row.median_us == pytest.approx(power_law_us(unseen), rel=0.08)
        assert 0 < row.residual_pct < 5
        assert (row.origin, row.key, row.setting, row.measurement) == ("interpolated", unseen, ONE, None)
        assert (row.macs, row.parameters, row.bytes) == (unseen.macs, unseen.parameters, unseen.moved_bytes)


def test_its_error_is_that_of_the_known_rows_each_predicted_from_the_others():
    rng = np.random.default_rng(1)
    whims = {k: float(np.exp(0.2 * rng.standard_normal())) for k in CONVS}
    table = made_up_table({k: 2 + power_law_us(k) * whims[k] for k in CONVS})
    errors = []
    for left in CONVS:
        without = replace(table, rows=tuple(row for row in table.rows if row.key != left))
        predicted = interpolated_row(without, ONE, left).median_us
        known = table.row(ONE, left).median_us - 2
        errors.append(abs(known / predicted - 1))
    found = interpolated_row(table, ONE, conv(64, 32))
    assert found.error_pct == pytest.approx(100 * float(np.mean(errors)), rel=0.02)


@pytest.mark.parametrize(
    "other",
    [conv(16, 8, window=1), conv(16, 8, groups=16), conv(16, 8, stride=2), map_kernel(16, 8), relu_kernel(3)],
    ids=str,
)
def test_rows_of_another_kind_do_not_count(other: Kernel):
    table = made_up_table({k: 2 + power_law_us(k) for k in CONVS})
    with pytest.raises(MissingRowError, match=r"0 rows of its kind; 6 are needed.*--only-added --add MODEL"):
        interpolated_row(table, ONE, other)


def test_too_few_rows_of_the_kind_are_an_error_that_names_the_remedy():
    few = {k: 2 + power_law_us(k) for k in CONVS[: FEWEST_ROWS - 1]}
    with pytest.raises(MissingRowError, match="5 rows of its kind"):
        interpolated_row(made_up_table(few), ONE, CONVS[-1])
    few[CONVS[FEWEST_ROWS - 1]] = 1.5  # faster than a call: it tells nothing
    with pytest.raises(MissingRowError, match="5 rows of its kind"):
        interpolated_row(made_up_table(few), ONE, CONVS[-1])
    few[CONVS[FEWEST_ROWS - 1]] = 40.0
    assert interpolated_row(made_up_table(few), ONE, CONVS[-1]).median_us > 0


def light(op: str, channels: int, side: int, window: int | None = None) -> Kernel:
    """A kernel that computes next to nothing, of a kind of its own for each window."""
    shape = (1, channels, side, side)
    attributes = (("kernel_shape", (window, window)),) if window else ()
    return Kernel(op, "", 14, attributes, (KernelInput("activation", "tensor(float)", shape),), 1, shape)


LEVELS = {"Relu": 1.0, "AveragePool": 6.0, "Resize": 20.0}


def by_bytes_us(kernel: Kernel) -> float:
    return LEVELS[kernel.op] * 1e-4 * kernel.moved_bytes**0.9


LIGHT = [light("Relu", 8, side) for side in (8, 16, 32, 64, 128)] + [
    light("AveragePool", 8, side, 2) for side in (16, 64)
]


def test_a_light_kernel_of_a_kind_with_few_rows_follows_its_operation_s():
    table = made_up_table({k: 2 + by_bytes_us(k) for k in (*LIGHT, light("Resize", 1, 64))})
    for unseen in (light("AveragePool", 8, 128, 4), light("Resize", 1, 256), light("Relu", 64, 64)):
        row = interpolated_row(table, ONE, unseen)
        assert row.median_us == pytest.approx(by_bytes_us(unseen), rel=0.02)
        assert (row.origin, row.residual_pct) == ("interpolated", pytest.approx(0, abs=2))
    with pytest.raises(MissingRowError, match="0 rows of its kind"):
        interpolated_row(table, ONE, light("Sigmoid", 8, 64))  # an operation that nobody measured
    with pytest.raises(MissingRowError, match="0 rows of its kind"):
        interpolated_row(table, ONE, conv(16, 32))  # its work is no matter of bytes


def test_a_light_kernel_s_error_is_that_of_its_operation_s_rows_each_predicted_from_the_others():
    rng = np.random.default_rng(2)
    above = {k: by_bytes_us(k) * float(np.exp(0.3 * rng.standard_normal())) for k in LIGHT}
    above[light("Resize", 1, 64)] = 5.0
    table = made_up_table({k: 2 + v for k, v in above.items()})
    operations = sorted({k.op for k in above})
    design = np.array([[k.op == op for op in operations] + [np.log(k.moved_bytes)] for k in above], float)
    slope = np.linalg.lstsq(design, np.log([*above.values()]), rcond=None)[0][-1]  # one of all operations

    def errors(op):
        found = []
        for left in (own := [k for k in above if k.op == op]):
            others = [np.log(above[k] / left.moved_bytes**slope * left.moved_bytes**slope / above[left])
                      + slope * np.log(left.moved_bytes / k.moved_bytes) for k in own if k != left]  # fmt: skip
            found.append(abs(np.expm1(-np.mean(others))))
        return found

    pool = interpolated_row(table, ONE, light("AveragePool", 8, 128, 4))
    assert pool.residual_pct == pytest.approx(100 * np.mean(errors("AveragePool")), rel=0.02)
    alone = interpolated_row(table, ONE, light("Resize", 1, 256))  # a single row: those of all other operations
    assert alone.residual_pct == pytest.approx(100 * np.mean(errors("Relu") + errors("AveragePool")), rel=0.02)
    nothing = interpolated_row(made_up_table({light("Resize", 1, 64): 7.0}), ONE, light("Resize", 1, 256))
    assert nothing.residual_pct == 100


def test_an_empty_call_tells_nothing_of_its_operation():
    with pytest.raises(MissingRowError, match="or one of its operation"):
        interpolated_row(made_up_table({k: 2 + by_bytes_us(k) for k in LIGHT}), ONE, light("Identity", 8, 64))


def test_a_light_guess_stays_within_bounds_whatever_the_rows_say():
    wild = {light("Relu", 8, 8): 2.001, light("Relu", 8, 16): 1e6, light("AveragePool", 8, 16, 2): 50.0}
    far = interpolated_row(made_up_table(wild), ONE, light("AveragePool", 512, 256, 4)).median_us
    assert far == pytest.approx(48 * (512 * 256**2 / (8 * 16**2)) ** 1.2, rel=0.01)
    falling = interpolated_row(made_up_table({k: 100.0 / k.moved_bytes + 2 for k in LIGHT}), ONE, light("Relu", 64, 64))
    assert 0 < falling.median_us < 1


def test_a_row_that_is_no_longer_than_a_call_still_tells_its_operation():
    table = made_up_table({k: 2 + by_bytes_us(k) for k in LIGHT} | {light("Flatten", 64, 1): 1.9})
    assert 0 < interpolated_row(table, ONE, light("Flatten", 128, 1)).median_us < 0.1


def test_settings_have_rows_of_their_own():
    costs = {k: 2 + power_law_us(k) for k in CONVS}
    table = made_up_table(costs).with_rows(made_up_table({k: 2 * v for k, v in costs.items()}, (TWO,)).rows)
    one, two = (interpolated_row(table, setting, conv(64, 32)).median_us for setting in (ONE, TWO))
    assert two == pytest.approx(2 * one, rel=0.1)


def test_a_guess_far_away_is_still_a_number():
    table = made_up_table({k: 2.0 + 10.0 ** (index % 5) for index, k in enumerate(MAPS)})
    row = interpolated_row(table, ONE, map_kernel(4096, 128))
    assert 0 < row.median_us < 1e12
    assert 0 < row.residual_pct < 2000


def test_a_table_is_completed_with_guesses_that_others_are_not_made_from():
    table = made_up_table({k: 2 + power_law_us(k) for k in CONVS})
    guessed = with_interpolated(table, ONE, [CONVS[0], conv(64, 32), conv(64, 32)])
    assert guessed.row(ONE, conv(64, 32)) == interpolated_row(table, ONE, conv(64, 32))
    assert len(guessed.rows) == len(table.rows) + 1
    assert interpolated_row(guessed, ONE, conv(16, 128)) == interpolated_row(table, ONE, conv(16, 128))
    assert with_interpolated(table, ONE, CONVS) is table
