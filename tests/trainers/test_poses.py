"""Standard poses: what they fix, what they are blind to, and data sets in them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lamina.samplers import UnknownNameError
from lamina.trainers import load, preset
from lamina.trainers.data.poses import POSES, SPREAD_X, SPREAD_Y, moments, posed, split_pose

LEVELS = 2**16
"""So many that rounding is not seen."""


def shapes(matrix: Tensor, size: int = 64) -> Tensor:
    """A curved stroke (1, 1, H, W) under an affine map (2, 3): from its own coordinates to those of half sides."""
    t = torch.linspace(-1, 1, 100, dtype=torch.float64)
    x, y = 0.15 * torch.cos(3 * t) + 0.1 * t, 0.3 * t
    at = 2 * (torch.arange(size, dtype=torch.float64) + 0.5) / size - 1
    pixels = torch.stack([at.expand(size, size), at.unsqueeze(1).expand(size, size)], dim=-1)  # x and y of each
    own_x, own_y = ((pixels - matrix[:, 2]) @ torch.linalg.inv(matrix[:, :2].double()).T).unsqueeze(-1).unbind(2)
    ink = torch.exp(-((own_x - x).square() + (own_y - y).square()) / (2 * 0.08**2)).sum(-1)
    return (2 * ink / ink.max() - 1).float().reshape(1, 1, size, size)


STRAIGHT = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
LEANING = torch.tensor([[1.0, 0.35, 0.15], [0.0, 1.0, -0.1]])
LARGER = torch.tensor([[1.4, 0.0, 0.0], [0.0, 1.4, 0.0]])
WIDER = torch.tensor([[1.6, 0.0, 0.1], [0.0, 1.0, 0.0]])


@pytest.mark.parametrize("pose", POSES)
@pytest.mark.parametrize("matrix", [STRAIGHT, LEANING, LARGER, WIDER], ids=["straight", "leaning", "larger", "wider"])
def test_moments_of_a_standard_pose(pose: str, matrix: Tensor) -> None:
    """To what interpolation smooths away."""
    found = moments(posed(shapes(matrix), pose, LEVELS))
    assert abs(float(found.x)) < 0.01
    assert abs(float(found.y)) < 0.01
    assert abs(float(found.slant)) < 0.02
    assert float(found.spread_y) == pytest.approx(2 * SPREAD_Y, rel=0.02)
    if pose == "whitened":
        assert float(found.spread_x) == pytest.approx(2 * SPREAD_X, rel=0.02)


@pytest.mark.parametrize(
    ("pose", "matrix", "is_blind"),
    [
        ("upright", LEANING, True),
        ("upright", LARGER, True),
        ("upright", WIDER, False),
        ("whitened", LEANING, True),
        ("whitened", LARGER, True),
        ("whitened", WIDER, True),
    ],
)
def test_what_a_pose_is_blind_to(pose: str, matrix: Tensor, is_blind: bool) -> None:
    """Up to what interpolation smooths away."""
    one, other = (posed(shapes(each), pose, LEVELS) for each in (STRAIGHT, matrix))
    before, after = float((shapes(STRAIGHT) - shapes(matrix)).abs().mean()), float((one - other).abs().mean())
    assert (after < 0.1 * before) == is_blind


def test_ink_is_where_the_moments_say() -> None:
    image = torch.full((1, 1, 10, 20), -1.0)
    image[0, 0, 2:4, 5] = 1.0
    found = moments(image)
    assert float(found.x) == pytest.approx((5.5 / 10) - 1)
    assert float(found.y) == pytest.approx(3.0 / 5 - 1)
    assert float(found.spread_y) == pytest.approx(0.5 / 5)
    assert float(found.spread_x) == pytest.approx(0.04)  # a line has no width: the least there is


def test_images_without_ink_stay() -> None:
    black = torch.full((3, 1, 8, 8), -1.0)
    for pose in POSES:
        assert torch.equal(posed(black, pose, 256), black)
    assert posed(black[:0], "upright", 256).shape == (0, 1, 8, 8)


def test_colours_move_together_and_inputs_stay() -> None:
    image = torch.cat([shapes(LEANING), shapes(LEANING), torch.full((1, 1, 64, 64), -1.0)], dim=1)
    before = image.clone()
    moved = posed(image, "upright", LEVELS)
    assert torch.equal(image, before)
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert (moved[:, 2] == -1).all()


def test_grey_levels_are_kept() -> None:
    moved = posed(shapes(LEANING), "whitened", 17)
    steps = (moved + 1) * 8
    torch.testing.assert_close(steps, steps.round())
    assert len(steps.unique()) > 5


def test_names() -> None:
    assert split_pose("upright:mnist-without-4") == ("upright", "mnist-without-4")
    assert split_pose("mnist") == (None, "mnist")
    assert split_pose("folder:upright:faces@8") == (None, "folder:upright:faces@8")
    assert posed(shapes(LEANING), None, 256).equal(shapes(LEANING))
    with pytest.raises(UnknownNameError, match=r"standard pose.*whitened"):
        posed(shapes(LEANING), "whitend", 256)


def test_data_sets_in_a_pose() -> None:
    plain, data = load("digits-without-1"), load("upright:digits-without-1")
    assert data.name == "upright:digits-without-1"
    assert data.checksum == plain.checksum
    assert data.rule == f"{plain.rule}; in the standard pose 'upright' by moments of the ink"
    assert torch.equal(data.train, posed(plain.train, "upright", plain.num_levels))
    assert torch.equal(data.test_labels, plain.test_labels)
    assert not torch.equal(data.test, plain.test)
    assert preset("upright:digits").model == preset("digits").model
    with pytest.raises(UnknownNameError, match="data set"):
        load("upright:nowhere")
    with pytest.raises(UnknownNameError, match="data set"):
        load("upright:upright:digits")
