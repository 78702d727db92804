"""Measures by features: their closed forms, brute force, and the size of their errors."""

import math
from collections.abc import Callable
from functools import reduce
from operator import add

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from phin.errors import PhinError
from phin.metrics.density_coverage import coverage, density
from phin.metrics.features import Seen
from phin.metrics.figure import figure, known
from phin.metrics.frechet import frechet_distance, frechet_estimate, moments
from phin.metrics.inception_score import certainty, inception_score
from phin.metrics.jackknife import GROUPS, REACH, Estimate, jackknife, ratio
from phin.metrics.jackknife import mean as mean_of
from phin.metrics.kernel import kernel_distance
from phin.metrics.measures import MEASURES, figures, measured
from phin.metrics.memorisation import copying, nearest
from phin.metrics.precision_recall import precision, recall
from phin.metrics.summary import Summary

BALLS: dict[str, Callable[..., Estimate]] = {
    "precision": precision,
    "recall": recall,
    "density": density,
    "coverage": coverage,
}
TWO_SETS = {"kernel": kernel_distance, **BALLS}


def drawn(n: int, d: int = 3, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * torch.randn(n, d, dtype=torch.float64)


def without(x: Tensor, group: int) -> Tensor:
    """Points less each tenth from this one on."""
    return x[torch.arange(len(x)) % GROUPS != group]


# The jackknife


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=20))
def test_the_jackknife_of_a_mean_is_its_standard_error(values: list[float]) -> None:
    x = np.array(values)
    found = jackknife(x.mean(), [float(np.delete(x, i).mean()) for i in range(len(x))])
    assert found.error == pytest.approx(x.std(ddof=1) / math.sqrt(len(x)), rel=1e-9, abs=1e-12)
    assert found.value == x.mean()


def mean_by_groups(groups: list[float]) -> Estimate:
    """A mean, by the jackknife over values that are groups of one."""
    k, total = len(groups), math.fsum(groups)
    return jackknife(total / k, [(total - one) / (k - 1) for one in groups])


def test_a_ratio_has_the_errors_of_both_less_what_they_share() -> None:
    deviations = np.array([[1, -1, 0, 0], [0, 0, 2, -2]])  # not correlated
    above, below = (mean_by_groups([*(mean + d)]) for mean, d in zip((400, 100), deviations, strict=True))
    found = ratio(above, below)
    assert found is not None
    assert found.value == 4
    relative = math.hypot(above.error / 400, below.error / 100)
    assert found.error / found.value == pytest.approx(relative, rel=1e-3)  # of first order
    shared = ratio(mean_by_groups([300.0, 330.0, 360.0]), mean_by_groups([100.0, 110.0, 120.0]))
    assert shared is not None
    assert (shared.value, shared.error) == (3, pytest.approx(0, abs=1e-12))


def summed(x: Tensor) -> Summary:
    """Of pictures with these features, and of any class."""
    summary = Summary(len(x))
    summary.add(range(len(x)), Seen(x, torch.zeros(len(x), 2)))
    return summary


def test_there_is_no_ratio_over_nothing() -> None:
    one, nothing = mean_by_groups([1.0, 2.0]), mean_by_groups([0.0, 0.0])
    assert ratio(one, nothing) is None
    assert ratio(one, mean_by_groups([0.0, 1.0])) is None  # which it is without a group
    assert ratio(nothing, one) == jackknife(0.0, [0.0, 0.0])


def test_the_ratio_to_a_floor_leaves_out_a_tenth_of_all_three_sets() -> None:
    sets = [drawn(200, 3, 0.4), drawn(200, 3, 0.1), drawn(200, 3)]
    made, others, real = map(summed, sets)
    table = figures(made, others, real, measured(others, real), "test")
    told = table["frechet"]["over_floor"]

    def over(made: Tensor, others: Tensor, real: Tensor) -> float:
        reference = moments(real)
        return frechet_distance(moments(made), reference) / frechet_distance(moments(others), reference)

    left = [over(*(without(x, group) for x in sets)) for group in range(GROUPS)]
    expected = jackknife(over(*sets), left)
    assert told["value"] == pytest.approx(expected.value, rel=1e-9)
    assert told["error"] == pytest.approx(expected.error, rel=1e-6)


def test_what_one_cannot_tell_is_none() -> None:
    alone = mean_of(torch.tensor([2.0]))
    assert known(alone) == {"value": 2.0, "error": None, "interval": None}
    assert figure(alone, 1, "test") == {**known(alone), "n": 1, "reference": {"split": "test", "n": 1}}
    assert known(Estimate(-1.0, 0.0))["interval"] == [-1, -1]


def test_the_interval_is_students() -> None:
    assert pytest.approx(scipy.stats.t.ppf(0.975, GROUPS - 1), rel=1e-9) == REACH
    assert Estimate(1.0, 0.5).interval == (1 - REACH / 2, 1 + REACH / 2)
    x = torch.tensor([1.0, 2.0, 4.0])  # of a mean, there are no groups
    assert mean_of(x).interval[1] == pytest.approx(
        7 / 3 + scipy.stats.norm.ppf(0.975) * float(x.std()) / 3**0.5
    )


def test_a_figure_is_told_with_all_that_it_depends_on_and_ends_where_it_has_to() -> None:
    told = figure(Estimate(0.5, 1.0), 70, "train", 30)
    assert told == {
        "value": 0.5,
        "error": 1.0,
        "interval": [0.0, 0.5 + REACH],
        "n": 70,
        "reference": {"split": "train", "n": 30},
    }
    assert figure(Estimate(0.9, 0.1), 5, "test", ends=(0.0, 1.0))["interval"] == [0.9 - REACH * 0.1, 1.0]
    assert MEASURES["kernel"].ends[0] == -math.inf  # of an unbiased estimate, which falls on either side
    assert all(measure.ends[0] >= 0 for name, measure in MEASURES.items() if name != "kernel")


def test_the_interval_of_a_frechet_distance_has_the_truth_in_it_as_often_as_it_says() -> None:
    """Of 200 repetitions 95 % are 190 ± 3.1."""
    inside = 0
    for _ in range(200):
        a, b = drawn(600, 2), drawn(600, 2, 1.0, 1.5)
        low, high = frechet_estimate(
            [moments(a[g::GROUPS]) for g in range(GROUPS)], [moments(b[g::GROUPS]) for g in range(GROUPS)]
        ).interval
        inside += low <= 2 * (1 + 0.25) <= high
    assert 182 <= inside <= 198


# The Inception Score


def score(probabilities: Tensor) -> float:
    found = certainty(probabilities.log())
    return inception_score([found, found]).value


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_certain_and_balanced_pictures_score_as_many_as_there_are_classes(classes: int) -> None:
    assert score(torch.eye(classes)) == pytest.approx(classes, rel=1e-9)
    assert score(torch.full((7, classes), 1 / classes)) == pytest.approx(1, abs=1e-6)
    assert score(torch.eye(classes)[:1].expand(9, -1)) == pytest.approx(1, abs=1e-12)


def test_the_score_is_that_of_its_definition_and_of_torchmetrics() -> None:
    from torchmetrics.image.inception import InceptionScore

    logits = 2 * torch.randn(300, 7, dtype=torch.float64)
    p = logits.softmax(1)
    by_hand = math.exp(float((p * (p.log() - p.mean(0).log())).sum(1).mean()))
    assert score(p) == pytest.approx(by_hand, rel=1e-9)
    with pytest.warns(UserWarning, match="all extracted features in buffer"):
        theirs = InceptionScore(feature=Given(7), splits=1)
    theirs.update(logits)
    with pytest.warns(UserWarning, match="degrees of freedom"):  # of one split
        value, _ = theirs.compute()
    assert score(p) == pytest.approx(float(value), rel=1e-6)


def test_the_score_of_splits_is_their_mean_and_batches_add_up() -> None:
    logits = torch.randn(400, 5, dtype=torch.float64)
    splits = [certainty(logits[g::4]) for g in range(4)]
    each = [inception_score([split, split]).value for split in splits]
    found = inception_score(splits)
    assert found.value == pytest.approx(np.mean(each), rel=1e-12)
    assert found.error == pytest.approx(np.std(each, ddof=1) / 2, rel=1e-9)
    whole, parts = certainty(logits), reduce(add, splits)
    assert (parts.n, parts.entropy) == (whole.n, pytest.approx(whole.entropy, rel=1e-12))
    torch.testing.assert_close(parts.total, whole.total)
    with pytest.raises(PhinError, match="splits of 100 pictures"):
        inception_score(splits[:1])


class Given(nn.Module):
    """Features that are given as they are, for metrics of others."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.num_features = dims

    def forward(self, x: Tensor) -> Tensor:
        return x


# The Frechet distance, against others' code on the same features


def test_the_frechet_distance_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = drawn(3000, 24), drawn(2500, 24, 0.2) @ torch.randn(24, 24, dtype=torch.float64)
    theirs = FrechetInceptionDistance(feature=Given(24)).set_dtype(torch.float64)
    theirs.update(a, real=False)
    theirs.update(b, real=True)
    assert frechet_distance(moments(a), moments(b)) == pytest.approx(float(theirs.compute()), rel=1e-6)


# The kernel distance


def brute_kernel(x: Tensor, y: Tensor) -> float:
    def k(a: list[float], b: list[float]) -> float:
        return (sum(p * q for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def mean(one: list[list[float]], other: list[list[float]], same: bool) -> float:
        pairs = [k(a, b) for i, a in enumerate(one) for j, b in enumerate(other) if not (same and i == j)]
        return sum(pairs) / len(pairs)

    u, v = x.tolist(), y.tolist()
    return mean(u, u, True) + mean(v, v, True) - 2 * mean(u, v, False)


def test_the_kernel_distance_is_the_double_loop() -> None:
    x, y = drawn(43, 4), drawn(35, 4, 0.3, 1.2)
    assert kernel_distance(x, y).value == pytest.approx(brute_kernel(x, y), rel=1e-10)
    assert kernel_distance(y, x).value == pytest.approx(brute_kernel(x, y), rel=1e-10)


def test_the_kernel_distance_is_that_of_torchmetrics() -> None:
    from torchmetrics.image.kid import poly_mmd

    x, y = drawn(700, 16), drawn(700, 16, 0.1)
    assert kernel_distance(x, y).value == pytest.approx(float(poly_mmd(x, y, degree=3, coef=1.0)), rel=1e-6)


def test_the_kernel_distance_has_no_bias() -> None:
    """In one dimension E k(x, y) = sum_j C(3, j) E[x^j] E[y^j], so that the distance is one of moments. If
    each point were paired with itself, or sums divided by n², some 0.03 more or less would come out."""
    for mean, std, close in ((0.0, 0.3, 0.02), (0.2, 0.36, 0.05)):
        first, second = ([1, m, m**2 + s**2, m**3 + 3 * m * s**2] for m, s in ((0.0, 0.3), (mean, std)))
        exact = sum(
            math.comb(3, j) * (p - q) ** 2 for j, (p, q) in enumerate(zip(first, second, strict=True))
        )
        found = [kernel_distance(drawn(20, 1, 0, 0.3), drawn(30, 1, mean, std)).value for _ in range(200)]
        error = np.std(found) / math.sqrt(len(found))
        assert abs(np.mean(found) - exact) < 3 * error < close


# Precision, recall, density and coverage


def brute_balls(y: Tensor, x: Tensor, k: int) -> tuple[float, float, float]:
    """Precision, density and coverage of points y by the balls of points x, by loops."""
    points, centres = y.tolist(), x.tolist()
    radii = [
        sorted(math.dist(c, o) for j, o in enumerate(centres) if j != i)[k - 1] for i, c in enumerate(centres)
    ]
    inside = [[math.dist(p, c) <= r for c, r in zip(centres, radii, strict=True)] for p in points]
    return (
        float(np.mean([any(row) for row in inside])),
        float(np.mean([sum(row) for row in inside])) / k,
        float(np.mean(np.any(inside, axis=0))),
    )


@pytest.mark.parametrize("k", [1, 3, 5])
def test_balls_are_those_of_loops(k: int) -> None:
    x, y = drawn(60, 2), drawn(40, 2, 0.7)
    exact, dense, covered = brute_balls(y, x, k)
    assert precision(y, x, k).value == pytest.approx(exact, rel=1e-12)
    assert density(y, x, k).value == pytest.approx(dense, rel=1e-12)
    assert coverage(y, x, k).value == pytest.approx(covered, rel=1e-12)
    assert recall(y, x, k).value == pytest.approx(brute_balls(x, y, k)[0], rel=1e-12)


@pytest.mark.parametrize("name", TWO_SETS)
def test_errors_are_the_jackknifes_that_leaves_out_a_tenth_of_both(name: str) -> None:
    x, y = drawn(200, 3), drawn(100, 3, 0.4)
    measure = TWO_SETS[name]
    left = [measure(without(x, group), without(y, group)).value for group in range(GROUPS)]
    assert measure(x, y).error == pytest.approx(jackknife(0.0, left).error, rel=1e-9)


def test_what_balls_say_of_sets_that_are_known() -> None:
    """Real points in two places: drawn in both, in one, elsewhere, or one of them again and again."""
    real = drawn(200, 2, std=0.1) + 100 * (torch.arange(200) // GROUPS % 2)[:, None]
    one = drawn(200, 2, std=0.1)
    assert precision(real, real).value == recall(real, real).value == coverage(real, real).value == 1
    assert precision(one, real).value > 0.9
    assert 0.3 < recall(one, real).value <= 0.5
    assert 0.4 < coverage(one, real).value <= 0.5
    away = drawn(200, 2, 50.0, 0.1)
    for measure in (precision, recall, density, coverage):
        assert measure(away, real).value == 0
    line = torch.arange(40, dtype=torch.float64)[:, None]
    assert density(line, line, 1).value == pytest.approx(
        (38 * 3 + 2 * 2) / 40, rel=1e-12
    )  # neighbours and itself
    shifted = precision((line + 1e3).float(), (line + 1e3).float(), 1)
    assert shifted == Estimate(1.0, 0.0)


def test_equal_distributions_have_density_1_and_the_coverage_of_chance() -> None:
    """The k nearest of a point, of real and generated ones together, are all real with probability
    (m - 1) ... (m - k) / ((n + m - 1) ... (n + m - k)), equation 13 of arXiv:2002.09797."""
    n, m, k = 60, 40, 3
    found = torch.tensor(
        [
            (density(y, x, k).value, coverage(y, x, k).value)
            for x, y in ((drawn(m, 2), drawn(n, 2)) for _ in range(200))
        ]
    )
    mean, error = found.mean(0), found.std(0) / math.sqrt(len(found))
    missed = math.prod((m - i) / (n + m - i) for i in range(1, k + 1))
    for value, exact, off in zip(mean, (1, 1 - missed), error, strict=True):
        assert abs(value - exact) < 3 * off


@pytest.mark.parametrize(
    ("name", "low", "high"), [("kernel", 0.85, 1.15), *((name, 0.85, 1.75) for name in BALLS)]
)
def test_errors_are_those_of_repetition(name: str, low: float, high: float) -> None:
    """Of counts in balls, which jump when a neighbour goes, they are on the safe side."""
    found = [TWO_SETS[name](drawn(200), drawn(200, mean=0.5)) for _ in range(100)]
    values, errors = torch.tensor([(one.value, one.error) for one in found]).T
    assert low < float(errors.square().mean().sqrt() / values.std()) < high


@pytest.mark.parametrize("name", TWO_SETS)
def test_sets_that_cannot_be_compared_are_refused(name: str) -> None:
    with pytest.raises(PhinError, match=r"2 and 3 dimensions|3 and 2 dimensions"):
        TWO_SETS[name](drawn(50, 2), drawn(50, 3))
    with pytest.raises(PhinError, match="pictures have no"):
        TWO_SETS[name](drawn(6), drawn(6))


# Memorisation


def test_the_nearest_training_example_is_the_nearest() -> None:
    x, train = 1e3 + drawn(30, 5).float(), 1e3 + drawn(5000, 5).float()
    x[7] = train[4321]
    found = nearest(x, train)
    apart = (x[:, None].double() - train.double()).square().sum(2).sqrt()
    torch.testing.assert_close(found.distance, apart.amin(1), rtol=1e-9, atol=0)
    assert torch.equal(found.index, apart.argmin(1))
    assert found.distance[7] == 0
    levels = nearest(torch.tensor([[0, 255]], dtype=torch.uint8), torch.tensor([[3, 251]], dtype=torch.uint8))
    assert levels.distance.item() == 5


def test_copies_are_told_from_what_is_new() -> None:
    train, test, new = drawn(1000, 4), drawn(300, 4), drawn(300, 4)
    noisy = train[:300] + drawn(300, 4, std=0.01)
    far = nearest(test, train).distance
    fresh = copying(nearest(new, train).distance, far)
    assert abs(fresh.value - 0.5) < 3 * fresh.error < 0.15
    assert copying(nearest(noisy, train).distance, far).value > 0.95
    assert copying(nearest(train[:300], train).distance, far) == Estimate(1.0, 0.0)
    assert copying(nearest(10 * new, train).distance, far).value < 0.1
    ones = torch.ones(50, dtype=torch.float64)
    assert copying(ones, ones) == Estimate(0.5, 0.0)


def test_copying_is_the_count_of_pairs() -> None:
    a, b = drawn(50, 1)[:, 0].round(decimals=1), drawn(70, 1, 0.3)[:, 0].round(decimals=1)

    def count(u: Tensor, v: Tensor) -> float:
        return float(
            np.mean([1.0 if p < q else 0.5 if p == q else 0.0 for p in u.tolist() for q in v.tolist()])
        )

    found = copying(a, b)
    assert found.value == pytest.approx(count(a, b), rel=1e-12)
    left = [count(without(a, group), without(b, group)) for group in range(GROUPS)]
    assert found.error == pytest.approx(jackknife(0.0, left).error, rel=1e-9)
    with pytest.raises(PhinError, match="9 and 70 distances"):
        copying(a[:9], b)
    with pytest.raises(PhinError, match="5 dimensions are no neighbours"):
        nearest(drawn(5, 4), drawn(5, 5))
