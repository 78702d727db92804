import json
import math
from functools import reduce
from operator import add
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torch import Tensor

from phin.errors import PhinError
from phin.metrics.frechet import Moments, frechet_distance, frechet_estimate, moments
from phin.metrics.reading import Rate, cell_moments, cells, distances, read, score, scores, split
from phin.nets.classifier import Classifier, ClassifierConfig

N = 10_000  # as if from this many samples


def gaussian(mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> Moments:
    return Moments(N, mean, covariance * (N - 1))


def rotation(d: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


def covariance(d: int, rng: np.random.Generator) -> NDArray[np.float64]:
    q = rotation(d, rng)
    return q * rng.uniform(0.1, 3, d) @ q.T


seeds = st.integers(0, 2**32 - 1)


@given(seeds, st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_moments_of_batches_add_up_to_those_of_the_whole(seed: int, sizes: list[int]):
    rng = np.random.default_rng(seed)
    parts = [1e3 + rng.standard_normal((n, 3)) for n in (*sizes, 2)]
    whole, summed = np.concatenate(parts), reduce(add, map(moments, parts))
    assert summed.n == len(whole)
    np.testing.assert_allclose(summed.mean, whole.mean(0), rtol=1e-12)
    np.testing.assert_allclose(summed.covariance, np.cov(whole.T), rtol=1e-6, atol=1e-9)


def test_moments_do_not_lose_a_small_spread_around_a_large_mean():
    spread = np.random.default_rng(0).standard_normal((1000, 4))
    parts = np.split(1e7 + 1e-2 * spread, 10)
    found = reduce(add, map(moments, parts)).covariance
    np.testing.assert_allclose(found, 1e-4 * np.cov(spread.T), atol=1e-9)


@given(seeds)
def test_distance_of_gaussians_with_diagonal_covariances(seed: int):
    m, k, s, t = np.random.default_rng(seed).uniform(0, 2, (4, 6))
    found = frechet_distance(gaussian(m, np.diag(s**2)), gaussian(k, np.diag(t**2)))
    assert found == pytest.approx(((m - k) ** 2).sum() + ((s - t) ** 2).sum(), rel=1e-9)


@given(seeds)
def test_distance_in_two_dimensions_has_a_closed_form(seed: int):
    rng = np.random.default_rng(seed)
    a, b = covariance(2, rng), covariance(2, rng)
    cross = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    found = frechet_distance(gaussian(np.zeros(2), a), gaussian(np.ones(2), b))
    assert found == pytest.approx(2 + np.trace(a + b) - 2 * cross, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_distance_is_symmetric_rotation_invariant_and_that_of_the_matrix_square_root(seed: int):
    rng = np.random.default_rng(seed)
    (m, k), a, b, q = (
        rng.standard_normal((2, 16)),
        covariance(16, rng),
        covariance(16, rng),
        rotation(16, rng),
    )
    found = frechet_distance(gaussian(m, a), gaussian(k, b))
    textbook = ((m - k) ** 2).sum() + np.trace(a + b - 2 * np.real(np.asarray(sqrtm(a @ b))))
    assert found == pytest.approx(textbook, rel=1e-6)
    assert frechet_distance(gaussian(k, b), gaussian(m, a)) == pytest.approx(found, rel=1e-9)
    turned = frechet_distance(gaussian(q @ m, q @ a @ q.T), gaussian(q @ k, q @ b @ q.T))
    assert turned == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize("rank", [1, 5, 40])
def test_identical_features_are_at_distance_zero_even_with_a_singular_covariance(rank: int):
    rng = np.random.default_rng(rank)
    a = moments(rng.standard_normal((100, rank)) @ rng.standard_normal((rank, 40)))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * np.trace(a.covariance))


def test_a_shift_of_singular_features_is_the_whole_distance():
    f = np.random.default_rng(0).standard_normal((100, 1)) * np.ones(20)
    assert frechet_distance(moments(f), moments(f + 0.5)) == pytest.approx(20 * 0.25, rel=1e-9)


def test_too_few_features_warn_and_fewer_than_two_are_an_error():
    f = np.random.default_rng(0).standard_normal((9, 8))
    frechet_distance(moments(f), moments(f))
    with pytest.warns(UserWarning, match="8 pictures in 8 dimensions"):
        frechet_distance(moments(f), moments(f[:8]))
    with pytest.raises(PhinError, match="1 feature vector"):
        frechet_distance(moments(f), moments(f[:1]))
    with pytest.raises(PhinError, match="8 and 7 dimensions"):
        frechet_distance(moments(f), moments(f[:, :7]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_named(value: float):
    f = torch.zeros(5, 3)
    f[4, 1] = value
    with pytest.raises(PhinError, match=f"feature 1 of picture 4 is {value}, and 1 of 5"):
        moments(f)


def test_the_error_of_an_estimate_is_its_spread_over_repeated_experiments():
    rng = np.random.default_rng(0)
    scale = np.array([1.0, 2.0, 0.5])

    def experiment() -> tuple[float, float]:
        a, b = rng.standard_normal((10, 40, 3)), 1 + scale * rng.standard_normal((10, 40, 3))
        found = frechet_estimate([*map(moments, a)], [*map(moments, b)])
        whole = frechet_distance(moments(a.reshape(-1, 3)), moments(b.reshape(-1, 3)))
        assert found.value == pytest.approx(whole, rel=1e-9)
        return found.value, found.error

    values, errors = np.array([experiment() for _ in range(200)]).T
    assert values.mean() == pytest.approx(3 + 1 + 0.25, rel=0.05)
    assert math.sqrt((errors**2).mean()) == pytest.approx(values.std(), rel=0.2)


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_error_of_a_rate_is_half_of_wilsons_interval(n: int, share: float):
    rate = Rate(round(share * n), n)
    # the rates p that are one standard deviation away from what was seen: (seen - p)^2 = p (1 - p) / n
    low, high = sorted(np.roots([1 + 1 / n, -2 * rate.value - 1 / n, rate.value**2]).real)
    assert rate.error == pytest.approx((high - low) / 2, rel=1e-3)
    assert rate.error > 0


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_the_interval_of_a_rate_has_all_that_the_score_test_does_not_reject(n: int, share: float):
    rate, z = Rate(round(share * n), n), NormalDist().inv_cdf(0.975)
    # the rates p that are z standard deviations away from what was seen: (seen - p)^2 = z^2 p (1 - p) / n
    roots = sorted(np.roots([1 + z * z / n, -2 * rate.value - z * z / n, rate.value**2]).real)
    assert rate.interval == pytest.approx(roots, abs=1e-6)
    assert 0 <= rate.interval[0] < rate.interval[1] <= 1


def test_a_rate_beside_that_of_real_pictures_has_a_share_where_there_is_one() -> None:
    made, real = Rate(3, 4), Rate(6, 7)
    found = made.beside(real)
    assert (found["right"], found["n"], found["rate"], found["error"]) == (3, 4, 0.75, made.error)
    assert (found["real_rate"], found["real_error"]) == (6 / 7, real.error)
    assert found["share"] == pytest.approx(0.75 * 7 / 6)
    assert found["reference"] == {"split": "test", "n": 7}
    assert (found["interval"], found["real_interval"]) == ([*made.interval], [*real.interval])
    assert made.beside(Rate(0, 7))["share"] is None  # of nothing read right
    nothing = Rate(0, 0).beside(Rate(0, 0))
    assert nothing.pop("n") == nothing.pop("right") == nothing.pop("reference")["n"] == 0
    assert set(nothing.values()) == {None}
    assert Rate(0, 7).beside(real)["share"] == 0
    assert Rate.of(torch.tensor([True, False, True])) == Rate(2, 3)


class GreyReader(Classifier):
    """Reads digit d from a cell that is about as grey as 25 d; its features are of the grey values."""

    def __init__(self) -> None:
        super().__init__(ClassifierConfig((4,), (0,)), 1, 10)

    def features(self, x: Tensor) -> Tensor:
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3)), x[:, 0, 0, 0]], 1)

    def forward(self, x: Tensor) -> Tensor:
        grey = (x.mean((1, 2, 3)) + 1) * 127.5
        return -(grey[:, None] - 25 * torch.arange(10)).abs()


def drawn(string: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    greys = np.repeat([25 * int(digit) for digit in string], 28) + rng.integers(0, 9, (28, 28 * len(string)))
    return greys.astype(np.uint8)


def strings(n: int, rng: np.random.Generator) -> list[str]:
    return ["".join(map(str, rng.integers(0, 10, rng.integers(1, 6)))) for _ in range(n)]


def test_cells_are_the_columns_of_a_picture_in_order():
    picture = np.arange(28 * 84).reshape(28, 84).astype(np.uint8)
    for i, cell in enumerate(split(picture)):
        np.testing.assert_array_equal(cell, picture[:, 28 * i : 28 * i + 28])
    batches = list(cells([picture] * 5, batch=4))
    assert [len(batch) for batch in batches] == [4, 4, 4, 3]
    np.testing.assert_array_equal(
        np.round(127.5 * (torch.cat(batches)[:, 0].numpy() + 1)), np.concatenate([split(picture)] * 5)
    )


def test_strings_are_read_back_whatever_their_lengths_and_the_batches():
    rng = np.random.default_rng(0)
    asked = strings(300, rng)
    assert sum(map(len, asked)) > 512
    assert read(GreyReader(), [drawn(string, rng) for string in asked]) == asked


def test_tensors_are_rounded_to_eight_bits_first():
    rng = np.random.default_rng(0)
    pictures = [drawn(string, rng) for string in strings(20, rng)]
    noisy = [
        torch.from_numpy((p[None] + rng.uniform(-0.49, 0.49, p.shape)) / 127.5 - 1).float() for p in pictures
    ]
    for a, b in zip(cell_moments(GreyReader(), pictures), cell_moments(GreyReader(), noisy), strict=True):
        np.testing.assert_array_equal(a.mean, b.mean)
        np.testing.assert_array_equal(a.scatter, b.scatter)


def test_groups_of_pictures_hold_every_cell_once():
    rng = np.random.default_rng(0)
    pictures = [drawn(string, rng) for string in strings(25, rng)]
    groups = cell_moments(GreyReader(), pictures, groups=4)
    whole = moments(GreyReader().features(torch.cat(list(cells(pictures)))))
    summed = reduce(add, groups)
    assert (summed.n, len(groups)) == (whole.n, 4)
    np.testing.assert_allclose(summed.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(summed.scatter, whole.scatter, rtol=1e-6)


def test_score_counts_digits_and_strings_and_those_never_seen():
    found = score(["7", "42", "123", "123"], ["7", "43", "123", "321"], unseen=lambda s: len(s) > 2)
    assert found.digits == Rate(1 + 1 + 3 + 1, 9)
    assert found.strings == Rate(2, 4)
    assert found.unseen_digits == Rate(4, 6)
    assert found.unseen_strings == Rate(1, 2)


def test_evaluation_sets_generated_pictures_beside_real_ones():
    rng = np.random.default_rng(0)
    asked = strings(200, rng)
    real, train, good = ([drawn(string, rng) for string in asked] for _ in range(3))
    wrong = [np.roll(picture, 28, axis=1) for picture in good]  # each cell is real, but not where it belongs

    def result(pictures: list[NDArray[np.uint8]]) -> dict[str, Any]:
        return scores(GreyReader(), asked, pictures, real, unseen=lambda s: len(s) == 5)

    def apart(pictures: list[NDArray[np.uint8]]) -> dict[str, Any]:
        return distances(GreyReader(), pictures, real, train)

    table = json.loads(json.dumps(result(good) | apart(good), allow_nan=False))
    assert table["frechet_cells"] == table["frechet"]["n"] == table["digits"]["n"] == sum(map(len, asked))
    assert table["strings"]["share"] == table["unseen_strings"]["rate"] == 1
    assert table["unseen_strings"]["n"] == sum(len(string) == 5 for string in asked)
    over = table["frechet_over_floor"]
    assert over["value"] == pytest.approx(table["frechet"]["value"] / table["floor"]["value"])
    assert 0 <= over["interval"][0] < over["value"] < over["interval"][1]
    assert apart(train)["frechet"] == apart(good)["floor"]
    assert apart(wrong)["frechet"]["value"] == pytest.approx(apart(good)["frechet"]["value"])
    assert result(wrong)["strings"]["right"] == sum(len(set(string)) == 1 for string in asked)
    pale = apart([(0.8 * picture).astype(np.uint8) for picture in good])
    assert pale["frechet"]["value"] > 100 * pale["floor"]["value"]


def test_what_is_not_there_has_no_rate_and_what_is_the_same_no_ratio():
    pictures = [drawn("12", np.random.default_rng(k)) for k in range(10)]
    found = scores(GreyReader(), ["12"] * 10, pictures, pictures, unseen=lambda s: False)
    assert found["unseen_digits"]["rate"] is None
    found |= distances(GreyReader(), pictures, pictures, pictures)
    assert found["frechet_over_floor"] is None
    json.dumps(found, allow_nan=False)


def test_bad_pictures_are_named():
    reader, picture = GreyReader(), np.zeros((28, 56), np.uint8)
    with pytest.raises(PhinError, match="28 x 30 pixels"):
        read(reader, [picture[:, :30]])
    with pytest.raises(PhinError, match="not finite"):
        read(reader, [torch.full((1, 28, 28), math.nan)])
    with pytest.raises(PhinError, match="2 strings and 1 pictures"):
        score(["1", "2"], ["1"], unseen=lambda s: False)
    with pytest.raises(PhinError, match="'123' has 2 cells"):
        score(["123"], ["12"], unseen=lambda s: False)
    with pytest.raises(PhinError, match="3 pictures do not make 10 groups"):
        cell_moments(reader, [picture] * 3)


def test_a_covariance_that_rounding_made_indefinite_has_no_spread_there():
    """Its root is that of the nearest one: the distance to unit variance is 1, not (1 - 1e-3)²."""
    a = Moments(N, np.zeros(2), np.diag([N - 1.0, -1e-6 * (N - 1)]))
    b = gaussian(np.zeros(2), np.eye(2))
    assert frechet_distance(a, b) == pytest.approx(1, abs=1e-5)


def test_groups_are_every_so_many_pictures():
    rng = np.random.default_rng(0)
    pictures = [drawn(string, rng) for string in strings(10, rng)]
    for i, group in enumerate(cell_moments(GreyReader(), pictures, groups=3)):
        own = moments(GreyReader().features(torch.cat(list(cells(pictures[i::3])))))
        assert group.n == own.n
        np.testing.assert_allclose(group.mean, own.mean, rtol=1e-6)
    with pytest.raises(PhinError, match="10 pictures do not make 0 groups"):
        cell_moments(GreyReader(), pictures, groups=0)


def test_a_reader_of_other_classes_is_refused():
    with pytest.raises(PhinError, match="knows 12 classes"):
        read(Classifier(ClassifierConfig((4,), (0,)), 1, 12), [np.zeros((28, 28), np.uint8)])
