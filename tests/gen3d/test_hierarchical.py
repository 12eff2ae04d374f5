"""Dense rendering as in the first NeRF paper, against closed forms and loops written out by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from gen3d.fields.frequency_field import FrequencyField
from gen3d.render import hierarchical
from gen3d.render.hierarchical import composite_dense, render_hierarchical, sample_pdf, stratified


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def uniform(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


class Ball:
    """A soft ball of one colour around the origin, whose density along a ray is a Gaussian."""

    def __init__(self, peak: float = 40.0, size: float = 0.2, color: tuple[float, float, float] = (0.9, 0.2, 0.1)):
        self.peak, self.size, self.paint = peak, size, torch.tensor(color)
        self.seen = 0  # points looked at

    def density(self, x: Tensor) -> Tensor:
        return self.peak * torch.exp(-x.square().sum(1) / (2 * self.size**2))

    def color(self, x: Tensor, directions: Tensor) -> Tensor:
        return self.paint.to(x).expand(len(x), 3)

    def normal(self, x: Tensor) -> Tensor:
        return normalize(x, dim=1)

    def __call__(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        self.seen += len(x)
        return self.density(x), self.color(x, directions)


def rays(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From x = -2 to x = 2, at heights 0 to 0.5; in float64."""
    origins = torch.zeros(count, 3, dtype=torch.float64)
    origins[:, 0], origins[:, 2] = -2, torch.linspace(0, 0.5, count)
    directions = torch.tensor([1.0, 0, 0], dtype=torch.float64).expand(count, 3)
    near = torch.zeros(count, dtype=torch.float64)
    return origins, directions, near, near + 4


# -- where to look -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 20), st.booleans())
def test_each_interval_has_one_sample(count: int, r: int, random: bool) -> None:
    near = uniform(1, r)
    far = near + 0.1 + uniform(2, r)
    t = stratified(near, far, count, seeded(3) if random else None)
    assert t.shape == (r, count)
    places = (t - near[:, None]) / (far - near)[:, None] * count - torch.arange(count)  # in its interval
    assert (places > -1e-9).all() and (places < 1 + 1e-9).all()
    if not random:
        torch.testing.assert_close(places, torch.full_like(places, 0.5))


def test_places_in_intervals_are_uniform_and_come_from_the_generator() -> None:
    near, far = torch.zeros(2000), torch.full((2000,), 8.0)
    one, same, other = (stratified(near, far, 8, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    places = (one - torch.arange(8)).flatten()
    assert float(places.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(places.std()) == pytest.approx(math.sqrt(1 / 12), abs=0.01)


def test_inverse_of_a_known_distribution() -> None:
    """Weight 1, 0, 3 on intervals of 1, 1 and 2 metres: a quarter lies below 1, nothing up to 2, then it is even."""
    edges, weights = torch.tensor([[0.0, 1, 2, 4]]).double(), torch.tensor([[1.0, 0, 3]]).double()
    t = sample_pdf(edges, weights, 8)
    expected = [
        share * 4 if share < 0.25 else 2 + 2 * (share * 4 - 1) / 3 for share in ((k + 0.5) / 8 for k in range(8))
    ]
    torch.testing.assert_close(t, torch.tensor([expected]).double(), rtol=0, atol=1e-4)


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 100))
def test_inverse_is_exact(m: int, count: int, seed: int) -> None:
    """The share of weight below each sample is what was asked for; computed by a loop over intervals."""
    edges = uniform(seed, 3, m + 1).cumsum(1)
    weights = uniform(seed + 1, 3, m) * (uniform(seed + 2, 3, m) > 0.3)
    t = sample_pdf(edges, weights, count)
    assert t.shape == (3, count) and (t.diff(dim=1) >= 0).all()
    for row in range(3):
        heights = [float(weight) + 1e-5 for weight in weights[row]]
        for k in range(count):
            below = 0.0
            for index, height in enumerate(heights):
                low, high = float(edges[row, index]), float(edges[row, index + 1])
                below += height * min(max((float(t[row, k]) - low) / max(high - low, 1e-300), 0), 1)
            assert below / sum(heights) == pytest.approx((k + 0.5) / count, abs=1e-6)


def test_drawn_samples_follow_the_density() -> None:
    edges = torch.tensor([0.0, 1, 1.5, 4, 5]).expand(50, 5)
    weights = torch.tensor([0.2, 0.5, 0.0, 0.3]).expand(50, 4)
    t = sample_pdf(edges, weights, 2000, seeded())
    for low, high, share in ((0, 1, 0.2), (1, 1.5, 0.5), (1.5, 4, 0.0), (4, 5, 0.3)):
        within = (t >= low) & (t < high)
        assert float(within.float().mean()) == pytest.approx(share, abs=0.006)
        if share:  # even inside
            assert float(t[within].mean()) == pytest.approx((low + high) / 2, abs=0.01 * (high - low))
    assert torch.equal(t, sample_pdf(edges, weights, 2000, seeded()))


def test_samples_of_nothing_are_even_and_have_no_gradient() -> None:
    edges = torch.linspace(2, 6, 9)[None].requires_grad_()
    t = sample_pdf(edges, torch.zeros(1, 8), 16)
    torch.testing.assert_close(t, (2 + 4 * (torch.arange(16) + 0.5) / 16)[None])
    assert not t.requires_grad


# -- compositing ---------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(1, 12), st.sampled_from([0.0, 0.3, 1e10]))
def test_compositing_equals_a_loop(r: int, n: int, last: float) -> None:
    density, color, t = 5 * uniform(1, r, n), uniform(2, r, n, 3), uniform(3, r, n).cumsum(1)
    seen = composite_dense(density, color, t, last)
    for ray in range(r):
        through, sums, expected = 1.0, [0.0] * 5, []
        for k in range(n):
            delta = float(t[ray, k + 1] - t[ray, k]) if k + 1 < n else last
            alpha = 1 - math.exp(-float(density[ray, k]) * delta)
            weight = through * alpha
            through *= 1 - alpha
            values = [*color[ray, k].tolist(), 1.0, float(t[ray, k])]
            sums = [total + weight * value for total, value in zip(sums, values, strict=True)]
            expected.append(weight)
        found = [*seen[0][ray].tolist(), float(seen[1][ray]), float(seen[2][ray])]
        assert found == pytest.approx(sums, abs=1e-12)
        assert seen[3][ray].tolist() == pytest.approx(expected, abs=1e-12)


@settings(deadline=None)
@given(st.floats(0, 20), st.floats(0.1, 5), st.integers(1, 40))
def test_constant_density_is_beers_law(sigma: float, length: float, n: int) -> None:
    """n samples at the starts of n equal intervals cover 1 - exp(-sigma L), however many they are."""
    t = (length / n * torch.arange(n, dtype=torch.float64))[None]
    color = torch.full((1, n, 3), 0.7, dtype=torch.float64)
    seen, opacity, _, weights = composite_dense(torch.full_like(t, sigma), color, t, length / n)
    covered = 1 - math.exp(-sigma * length)
    assert float(opacity) == pytest.approx(covered, abs=1e-12) and float(weights.sum()) == pytest.approx(covered)
    assert seen[0].tolist() == pytest.approx([0.7 * covered] * 3, abs=1e-12)


def test_nothing_shines_through_the_last_sample() -> None:
    density, t = torch.tensor([[0.0, 0.0, 1e-6], [0.0, 0.0, 0.0]]), torch.tensor([[1.0, 2, 3], [1, 2, 3]])
    _, opacity, depth, _ = composite_dense(density, torch.ones(2, 3, 3), t)
    assert opacity.tolist() == [1, 0] and depth.tolist() == [3, 0]
    _, opacity, _, _ = composite_dense(density[:1].expand(2, 3), torch.ones(2, 3, 3), t, torch.tensor([1e10, 0.0]))
    assert opacity.tolist() == [1, 0]


def test_gradients_of_compositing() -> None:
    inputs = [3 * uniform(1, 2, 5) + 0.1, uniform(2, 2, 5, 3), uniform(3, 2, 5).cumsum(1), 0.4 + uniform(4, 2)]
    assert torch.autograd.gradcheck(composite_dense, [value.requires_grad_() for value in inputs])


def test_gradients_behind_something_opaque_are_finite() -> None:
    density = torch.tensor([[1e4, 0.0, 1e4, 2.0]], requires_grad=True)
    color = torch.ones(1, 4, 3, requires_grad=True)
    seen = composite_dense(density, color, torch.tensor([[0.0, 1, 2, 3]]))
    torch.stack([value.sum() for value in seen]).sum().backward()
    assert density.grad is not None and density.grad.isfinite().all()
    assert color.grad is not None and color.grad.isfinite().all() and not color.grad[:, 1:].any()


# -- both fields ---------------------------------------------------------------------------------------------------


def test_ball_against_its_integral() -> None:
    """A Gaussian of density along a line has a closed optical thickness."""
    ball = Ball()
    origins, directions, near, far = rays(6)
    white = torch.ones(3, dtype=torch.float64)
    coarse, fine = render_hierarchical(ball, ball, white, origins, directions, near, far, 64, 128)
    peak = ball.density(torch.stack([0 * origins[:, 2], 0 * origins[:, 2], origins[:, 2]], 1))
    covered = 1 - torch.exp(-peak * ball.size * math.sqrt(2 * math.pi))
    torch.testing.assert_close(fine.opacity, covered, rtol=0, atol=0.01)
    expected = covered[:, None] * ball.paint.double() + (1 - covered)[:, None]
    torch.testing.assert_close(fine.color, expected, rtol=0, atol=0.01)
    torch.testing.assert_close(coarse.opacity, covered, rtol=0, atol=1e-9)  # even samples of a Gaussian are exact
    assert ((fine.depth > 1.2) & (fine.depth < 2.2)).all()


def test_fine_field_sees_the_sorted_union_of_both() -> None:
    coarse_field, fine_field = Ball(), Ball(peak=10.0)
    origins, directions, near, far = rays(5)
    coarse, fine = render_hierarchical(coarse_field, fine_field, None, origins, directions, near, far, 20, 30, seeded())
    assert coarse.t.shape == (5, 20) and fine.t.shape == fine.weights.shape == (5, 50)
    assert (coarse_field.seen, fine_field.seen) == (100, 250)
    assert (fine.t.diff(dim=1) >= 0).all()
    for ray in range(5):
        assert torch.isin(coarse.t[ray], fine.t[ray]).all()
    # what is new lies where the coarse field saw the ball
    more = fine.t[~torch.isin(fine.t, coarse.t)]
    assert float(((more - 2).abs() < 1).double().mean()) > 0.95
    again = render_hierarchical(coarse_field, fine_field, None, origins, directions, near, far, 20, 30, seeded())
    assert torch.equal(again[1].t, fine.t) and torch.equal(again[1].color, fine.color)


def test_ray_without_length_sees_the_background_alone() -> None:
    origins, directions, near, far = rays(3)
    far[1], far[2] = near[1], near[2] - 1
    ball, blue = Ball(size=10.0), torch.tensor([0.0, 0, 1]).double()
    for seen in render_hierarchical(ball, ball, lambda d: blue.expand(len(d), 3), origins, directions, near, far, 8, 8):
        assert seen.color[1:].tolist() == [[0, 0, 1]] * 2
        assert seen.opacity[1:].tolist() == seen.depth[1:].tolist() == [0, 0]
        assert float(seen.opacity[0]) > 0.99


def test_each_field_is_taught_by_its_own_picture() -> None:
    coarse, fine = (FrequencyField(16, 4, seeded(seed)) for seed in (1, 2))
    origins, directions, near, far = (part.float() for part in rays(4))
    first, second = render_hierarchical(coarse, fine, torch.ones(3), origins, directions, near, far, 8, 8, seeded())
    second.color.sum().backward(retain_graph=True)
    assert all(value.grad is None for value in coarse.parameters())
    assert all(value.grad is not None for value in fine.parameters())
    first.color.sum().backward()
    assert all(value.grad is not None for value in coarse.parameters())


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    field = FrequencyField(16, 4, seeded())
    origins, directions, near, far = (part.float() for part in rays(7))
    with torch.no_grad():
        _, whole = render_hierarchical(field, field, None, origins, directions, near, far, 9, 5)
        monkeypatch.setattr(hierarchical, "PIECE", 10)
        _, pieces = render_hierarchical(field, field, None, origins, directions, near, far, 9, 5)
    torch.testing.assert_close(pieces.color, whole.color)
    torch.testing.assert_close(pieces.weights, whole.weights)


def test_noise_moves_densities_before_they_are_cut() -> None:
    field = FrequencyField(16, 4, seeded())
    with torch.no_grad():
        field.density_layer.weight.zero_()
        field.density_layer.bias.fill_(-1.0)  # empty, but noise of deviation 1 lifts one sample in six above 0
    origins, directions, near, far = (part.float() for part in rays(40))
    seen, _ = render_hierarchical(field, field, None, origins, directions, near, far, 32, 8, seeded(), noise=1.0)
    assert float((seen.weights[:, :4] > 0).float().mean()) == pytest.approx(0.159, abs=0.08)
    seen, _ = render_hierarchical(field, field, None, origins, directions, near, far, 32, 8, seeded())
    assert not seen.weights.any()


def test_a_small_field_learns_a_ball() -> None:
    torch.manual_seed(0)
    coarse, fine = (FrequencyField(32, 4, seeded(seed)) for seed in (1, 2))
    ball = Ball()
    optimizer = torch.optim.Adam([*coarse.parameters(), *fine.parameters()], 2e-3)
    origins, directions, near, far = (part.float() for part in rays(32))
    white = torch.ones(3)
    with torch.no_grad():
        _, truth = render_hierarchical(ball, ball, white, origins, directions, near, far)
    losses = []
    for step in range(120):
        pair = render_hierarchical(coarse, fine, white, origins, directions, near, far, 12, 12, seeded(step))
        loss = torch.stack([(seen.color - truth.color).square().mean() for seen in pair]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) < 0.1 * sum(losses[:10])


def test_what_does_not_fit_is_refused() -> None:
    origins, directions, near, far = rays(2)
    field, ball = FrequencyField(16, 4).double(), Ball()
    with pytest.raises(ValueError, match=r"got \(2,\), \(1,\) and 4"):
        stratified(near, far[:1], 4)
    with pytest.raises(ValueError, match=r"got \(1, 4\) and \(1, 4\)"):
        sample_pdf(torch.zeros(1, 4), torch.zeros(1, 4), 2)
    with pytest.raises(ValueError, match=r"got \(2, 4\), \(2, 4\) and \(2, 4\)"):
        composite_dense(*[torch.zeros(2, 4)] * 3)
    with pytest.raises(ValueError, match="3 coarse samples or more; got 2 and 8"):
        render_hierarchical(field, field, None, origins, directions, near, far, 2, 8)
    with pytest.raises(ValueError, match="from a generator"):
        render_hierarchical(field, field, None, origins, directions, near, far, 4, 8, noise=1.0)
    with pytest.raises(ValueError, match="this is a Ball"):
        render_hierarchical(ball, ball, None, origins, directions, near, far, 4, 8, seeded(), noise=1.0)
