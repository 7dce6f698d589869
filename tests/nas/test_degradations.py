"""Bad frames made from good ones: nothing at severity 0, more with severity, masks that follow the anatomy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from latencykit.errors import InputError
from nas.data.phantom import load_phantom
from nas.degradations import KINDS, Degradations, Kind, bad_frames, degrade, load_degradations

SIZE = 64
MOVED = ("off_axis", "depth")


def frames(count: int) -> tuple[Tensor, Tensor]:
    """Bright rings on speckled ground, off centre, with the ring as the mask."""
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    radius = torch.hypot(rows - 34.0, columns - 30.0)
    masks = ((radius > 10) & (radius < 16)).float().expand(count, 1, SIZE, SIZE).clone()
    noise = torch.rand((count, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    return (0.2 * noise + 0.6 * masks).expand(count, 3, SIZE, SIZE), masks


def degraded(kind: Kind, severity: float, count: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return degrade(*frames(count), kind, torch.full((count,), severity), generator)


@pytest.mark.parametrize("kind", KINDS)
def test_severity_0_changes_nothing(kind: Kind):
    images, masks = frames(24)
    spoilt, moved = degraded(kind, 0.0)
    torch.testing.assert_close(spoilt, images, atol=2e-3, rtol=0)
    assert torch.equal(moved, masks)


@pytest.mark.parametrize("kind", KINDS)
def test_severity_changes_more_and_more_and_images_stay_images(kind: Kind):
    images, _ = frames(24)
    changes = []
    for severity in (0.0, 0.3, 0.6, 1.0):
        spoilt, moved = degraded(kind, severity)
        assert spoilt.shape == images.shape
        assert 0 <= float(spoilt.min()) <= float(spoilt.max()) <= 1
        assert set(moved.unique().tolist()) <= {0.0, 1.0}
        changes.append(float((spoilt - images).abs().mean()))
    assert changes == sorted(changes)
    assert changes[-1] > 0.02
    assert changes[-1] > 10 * changes[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_follows_where_the_anatomy_moves_and_stays_elsewhere(kind: Kind):
    _, masks = frames(24)
    spoilt, moved = degraded(kind, 0.8)
    if kind not in MOVED:
        assert torch.equal(moved, masks)
        return
    assert not torch.equal(moved, masks)
    there = moved.expand(-1, 3, -1, -1) > 0
    assert float(spoilt[there].mean()) > 0.5 > 3 * float(spoilt[~there].mean()) - 0.1  # still the bright ring


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_degraded_by_the_generator_alone_and_each_in_its_own_way(kind: Kind):
    once, again, other = (degraded(kind, 0.7, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    if kind != "blur":
        assert len({tuple(image.flatten()[::97].tolist()) for image in once - frames(24)[0]}) > 1


def test_a_training_sees_its_share_of_the_kinds_that_are_not_held_out(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[Kind, int]] = []

    def counted(images: Tensor, masks: Tensor, kind: Kind, severity: Tensor, generator: torch.Generator):
        asked.append((kind, len(images)))
        assert 0.2 <= float(severity.min()) <= float(severity.max()) <= 0.9
        return torch.zeros_like(images), masks

    monkeypatch.setattr("nas.degradations.degrade", counted)
    settings = Degradations(seed=0, share=0.5, least=0.2, most=0.9, held_out=("lift", "depth"))
    images, masks = frames(600)
    spoilt, moved = settings.spoil(images, masks, torch.Generator().manual_seed(3))
    assert [kind for kind, _ in asked] == list(settings.seen) == ["gain", "blur", "dropout", "shadow", "off_axis"]
    assert all(40 < count < 80 for _, count in asked)
    gone = (spoilt == 0).flatten(1).all(1)
    assert int(gone.sum()) == sum(count for _, count in asked)
    assert torch.equal(spoilt[~gone], images[~gone])
    assert torch.equal(moved, masks)


def test_what_is_given_is_left_as_it_was():
    images, masks = (tensor.clone() for tensor in frames(16))
    settings = replace(load_degradations(), share=1.0)
    spoilt, _ = settings.spoil(images, masks, torch.Generator().manual_seed(0))
    assert torch.equal(images, frames(16)[0])
    assert torch.equal(masks, frames(16)[1])
    assert not torch.equal(spoilt, images)


def test_the_frozen_file_holds_two_kinds_out():
    frozen = load_degradations()
    assert frozen == Degradations(seed=20261124, share=0.6, least=0.0, most=1.0, held_out=("gain", "blur"))
    assert frozen.seen == ("dropout", "shadow", "lift", "off_axis", "depth")


def test_bad_frames_are_the_same_every_time_and_of_all_kinds_alike():
    good = load_phantom(patients=3, frames_per_patient=2)
    frozen = load_degradations()
    bad, again = (bad_frames(good, frozen, ("gain", "depth")) for _ in range(2))
    assert np.array_equal(bad.images, again.images)
    assert np.array_equal(bad.masks, again.masks)
    assert (bad.spacing_mm == 1).all()
    assert (bad.patients == good.patients).all()
    moved = (bad.masks != good.masks).any((1, 2))
    assert moved.sum() == 3
    assert moved.tolist() not in ([True, False] * 3, [False, True] * 3)  # systole has all kinds, as diastole has
    alone = bad_frames(good, frozen, ("gain",))
    assert np.array_equal(alone.images[~moved], bad.images[~moved])
    assert not np.array_equal(bad.images, bad_frames(good, replace(frozen, seed=1), ("gain", "depth")).images)


def test_bad_frames_are_known_by_how_they_were_made_since_another_cpu_rounds_otherwise(monkeypatch):
    good, frozen = load_phantom(patients=2, frames_per_patient=1), load_degradations()
    found = bad_frames(good, frozen, ("gain", "depth"))
    others = [
        good,
        bad_frames(good, frozen, ("gain",)),
        bad_frames(good, replace(frozen, seed=1), ("gain", "depth")),
        bad_frames(good.subset([0]), frozen, ("gain", "depth")),
        found.subset([0]),
        found.subset([1]),
    ]
    assert len({found.sha256, *(other.sha256 for other in others)}) == 1 + len(others)

    def rounded_otherwise(images: Tensor, masks: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        return (images + 1e-3).clamp(max=1), masks

    monkeypatch.setattr("nas.degradations.degrade", rounded_otherwise)
    assert bad_frames(good, frozen, ("gain", "depth")).sha256 == found.sha256


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("seed = 1", "share"),
        ("seed = -1\nshare = 0.5\nleast = 0.0\nmost = 1.0\nheld_out = []", "seed is -1"),
        ("seed = 1\nshare = 1.5\nleast = 0.0\nmost = 1.0\nheld_out = []", "share is 1.5"),
        ("seed = 1\nshare = 0.5\nleast = 0.8\nmost = 0.2\nheld_out = []", "severities 0.8 to 0.2"),
        ("seed = 1\nshare = 0.5\nleast = 0.0\nmost = 1.0\nheld_out = ['fog']", "fog"),
        ("seed = 1\nshare = 0.5\nleast = 0.0\nmost = 1.0\nheld_out = ['lift', 'lift']", "each kind once"),
        ("seed = ", "cannot be read as TOML"),
    ],
)
def test_a_file_that_makes_no_sense_is_named_with_its_field(tmp_path: Path, text: str, why: str):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=why) as raised:
        load_degradations(path)
    if "TOML" in why or why in ("share", "fog"):
        assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"nowhere\.toml"):
        load_degradations(tmp_path / "nowhere.toml")
