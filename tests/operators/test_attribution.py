import numpy as np
import pytest
import torch
from torch import Tensor, nn

from operators import attribution

SIDE = 12


def picture(seed: int) -> Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) * 255


def curved(pictures: Tensor) -> Tensor:
    weights = torch.linspace(-1, 1, 3 * SIDE * SIDE).view(3, SIDE, SIDE)
    return torch.tanh((pictures / 255 * weights).sum((1, 2, 3)) / 4) + (pictures / 255).square().mean((1, 2, 3))


def rectified() -> attribution.Score:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(512, 1))
    return lambda pictures: net((pictures - 127) / 32)[:, 0]


def slow_integrated_gradients(score: attribution.Score, x: Tensor, baseline: Tensor, steps: int) -> Tensor:
    """(x - x') * mean of the gradients at the middles of equal pieces of the path: the formula, word for word."""
    total = torch.zeros_like(x)
    for step in range(steps):
        point = (baseline + (step + 0.5) / steps * (x - baseline)).requires_grad_()
        (gradient,) = torch.autograd.grad(score(point).sum(), point)
        total += gradient
    return (x - baseline) * total / steps


def test_integrated_gradients_are_those_of_the_formula():
    x, grey = picture(0), torch.full((1, 3, SIDE, SIDE), 127.0)
    found = attribution.integrated_gradients(curved, x, grey)
    assert torch.allclose(found, slow_integrated_gradients(curved, x, grey, 2000), atol=1e-5)


def test_integrated_gradients_of_a_linear_score_are_exact():
    weights = torch.randn(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    x, grey = picture(0), torch.full((1, 3, SIDE, SIDE), 127.0)
    found = attribution.integrated_gradients(lambda p: (p * weights).sum((1, 2, 3)), x, grey, steps=8)
    assert torch.allclose(found, weights * (x - grey), rtol=1e-4, atol=1e-3)


def test_integrated_gradients_of_a_net_of_rectifiers_are_complete():
    score, x, grey = rectified(), picture(0), torch.full((1, 3, SIDE, SIDE), 127.0)
    gained = attribution.gain(score, x, grey)
    found = attribution.integrated_gradients(score, x, grey, tolerance=0.01)
    assert attribution.completeness_error(float(found.sum()), gained) <= 0.011


def test_integrated_gradients_take_more_steps_where_the_score_bends_and_stop_at_the_most():
    seen: list[float] = []

    def bends_once(pictures: Tensor) -> Tensor:
        seen.extend(pictures.detach().mean((1, 2, 3)).tolist())
        return torch.relu(pictures.mean((1, 2, 3)) - 10.0)

    ends = torch.full((1, 3, 4, 4), 100.0), torch.zeros(1, 3, 4, 4)
    attribution.integrated_gradients(bends_once, *ends, steps=32, max_steps=96, tolerance=0.0)
    near = sum(7 <= value <= 13 for value in seen)
    assert near > len(seen) / 3
    # A piece costs 8 gradients and its two ends; the whole path's ends come on top.
    assert len(seen) == (96 // 8) * (8 + 2) + 2


def test_integrated_gradients_are_the_same_every_time():
    score, x, grey = rectified(), picture(0), torch.full((1, 3, SIDE, SIDE), 127.0)
    first, second = (attribution.integrated_gradients(score, x, grey) for _ in range(2))
    assert torch.equal(first, second)


def test_completeness_error_is_the_share_that_is_missed_or_made_up():
    assert attribution.completeness_error(1.9, 2.0) == pytest.approx(0.05)
    assert attribution.completeness_error(-2.1, -2.0) == pytest.approx(0.05)
    assert np.isfinite(attribution.completeness_error(0.1, 0.0))


def test_log_odds_are_the_logit_of_the_softmax_probability():
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    p = logits.softmax(1)[:, 2]
    assert torch.allclose(attribution.log_odds(logits, 2), (p / (1 - p)).log(), atol=1e-5)


@pytest.fixture
def head() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(6, 6, 5, groups=6), nn.Conv2d(6, 4, 1), nn.Flatten()).requires_grad_(False)


def test_contributions_and_the_constant_part_sum_up_to_the_cosine(head):
    last_map = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(1))
    direction = nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5, 3.0]), dim=0)
    parts, constant = attribution.cosine_contributions(head, last_map, direction)
    cosine = float(nn.functional.normalize(head(last_map)) @ direction)
    assert parts.shape == (5, 5)
    assert float(parts.sum()) + constant == pytest.approx(cosine, abs=1e-6)


def test_contributions_are_gradient_times_map_of_the_vector_before_it_is_normalised(head):
    last_map = torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    direction = nn.functional.normalize(torch.tensor([1.0, -2.0, 0.5, 3.0]), dim=0)
    vector = head(last_map)
    (gradient,) = torch.autograd.grad((vector @ direction).sum(), last_map)
    expected = (gradient * last_map).sum(1)[0] / vector.norm()
    parts, _ = attribution.cosine_contributions(head, last_map.detach(), direction)
    assert np.allclose(parts, expected.detach().numpy(), atol=1e-6)


def test_similar_less_dissimilar_is_the_distance_from_the_threshold():
    parts = np.random.default_rng(0).normal(0.01, 0.03, (7, 7)).astype(np.float32)
    similar, dissimilar = attribution.similar_and_dissimilar(parts, constant=0.02, threshold=0.4)
    assert similar.min() >= 0
    assert dissimilar.min() >= 0
    assert not np.any((similar > 0) & (dissimilar > 0))
    assert similar.sum() - dissimilar.sum() == pytest.approx(parts.sum() + 0.02 - 0.4, abs=1e-5)


def test_an_enlarged_map_keeps_its_place_and_is_nowhere_negative():
    coarse = np.zeros((7, 7), np.float32)
    coarse[2, 5] = 1.0
    large = attribution.enlarged(coarse, 112)
    assert large.shape == (112, 112)
    assert large.min() >= 0
    assert tuple(each // 16 for each in np.unravel_index(large.argmax(), large.shape)) == (2, 5)


def test_most_relevant_takes_its_share_exactly_even_of_equals():
    relevance = np.zeros((10, 10), np.float32)
    relevance[4, :5] = 1.0
    region = attribution.most_relevant(relevance, 0.1)
    assert region.sum() == 10
    assert region[4, :5].all()
    assert region[0, :5].all()


def test_shifted_regions_keep_their_size_and_come_again_with_the_seed():
    region = np.zeros((9, 14), np.bool_)
    region[3:5, 2:7] = True
    moved = attribution.shifted(region, 6, seed=1)
    assert moved.shape == (6, 9, 14)
    assert (moved.sum((1, 2)) == region.sum()).all()
    assert np.array_equal(moved, attribution.shifted(region, 6, seed=1))
    assert not np.array_equal(moved, attribution.shifted(region, 6, seed=2))


def test_share_lost_is_nothing_for_no_pixel_and_everything_for_all():
    regions = np.zeros((3, SIDE, SIDE), np.bool_)
    regions[1, : SIDE // 2] = True
    regions[2] = True
    white, black = torch.full((1, 3, SIDE, SIDE), 255.0), torch.zeros(1, 3, SIDE, SIDE)
    lost = attribution.share_lost(lambda p: p.mean((1, 2, 3)), white, black, regions)
    assert lost.tolist() == pytest.approx([0.0, 0.5, 1.0])


def test_share_lost_is_not_a_number_where_there_is_nothing_to_lose():
    black, white = torch.zeros(1, 3, SIDE, SIDE), torch.full((1, 3, SIDE, SIDE), 255.0)
    regions = np.ones((1, SIDE, SIDE), np.bool_)
    assert np.isnan(attribution.share_lost(lambda p: p.mean((1, 2, 3)), black, white, regions)).all()


def test_mass_within_counts_relevance_of_either_sign():
    relevance = np.array([[1.0, -1.0], [2.0, 0.0]], np.float32)
    region = np.array([[True, True], [False, False]])
    assert attribution.mass_within(relevance, region) == pytest.approx(0.5)
    assert attribution.mass_within(np.zeros((2, 2), np.float32), region) == 0.0
