import numpy as np
import pytest
from scipy import stats

from thesislib.analysis.intervals import Effect, holm, over_seeds, over_seeds_and_images, rounding


def test_over_seeds_is_students():
    x = np.array([1.0, 2.0, 4.0])
    effect = over_seeds(x)
    assert effect.interval() == pytest.approx(stats.t.interval(0.95, 2, x.mean(), stats.sem(x)))
    assert effect.p == pytest.approx(stats.ttest_1samp(x, 0).pvalue)
    assert over_seeds(np.array([1.0, np.nan, 2.0, np.inf, 4.0])) == effect, "what is not finite is left out"


def test_few_seeds_say_nothing():
    for few in ([], [1.0], [np.nan, 1.0]):
        effect = over_seeds(np.array(few))
        assert effect.interval() == (-np.inf, np.inf)
        assert effect.p == 1


def test_rounding_is_noise_too():
    """On 1,000 images accuracies come in steps of 0.001: differences that agree exactly have that much noise."""
    agreed = np.full(3, 0.0005)
    exact, rounded = over_seeds(agreed), over_seeds(agreed, rounding(1000))
    assert exact.error == 0
    assert rounded.error == pytest.approx(0.001 / np.sqrt(6) / np.sqrt(3))
    one, other = np.random.default_rng(0).uniform(size=(2, 100_000))
    assert ((one.round(3) - other.round(3)) - (one - other)).std() == pytest.approx(rounding(1000), rel=0.02)


def test_without_differences_between_images_only_seeds_count():
    seeds = np.array([1.0, 2.0, 4.0, 3.0])
    effect = over_seeds_and_images(np.repeat(seeds[:, None], 50, 1))
    assert effect[:4] == pytest.approx(over_seeds(seeds)[:4])
    assert effect.images == 50


def test_without_differences_between_seeds_only_images_count():
    images = np.random.default_rng(0).normal(size=400)
    effect = over_seeds_and_images(np.repeat(images[None], 4, 0))
    assert (effect.mean, effect.error, effect.freedom) == pytest.approx((images.mean(), stats.sem(images), 399))


def test_more_images_than_seeds_is_neither_doubled_nor_lost():
    """Transposed, the layout says the same: seeds and images have the same part in it."""
    x = np.random.default_rng(1).normal(size=(7, 90))
    assert over_seeds_and_images(x).error == pytest.approx(over_seeds_and_images(x.T).error)


def crossed_bootstrap(x, samples, rng):
    """Variance of the mean when seeds and images are drawn again, each with replacement (Owen 2007)."""
    n, images = x.shape
    seeds = rng.multinomial(n, np.full(n, 1 / n), samples) / n
    pictures = rng.multinomial(images, np.full(images, 1 / images), samples) / images
    return ((seeds @ x) * pictures).sum(1).var()


def test_variance_is_the_crossed_bootstraps_without_its_excess():
    """Of the interaction e the bootstrap counts 3 e / (n N), and shrinks seeds by (n - 1) / n."""
    rng = np.random.default_rng(0)
    n, images = 40, 60
    seeds, pictures = rng.normal(size=(n, 1)), 0.5 * rng.normal(size=(1, images))
    interaction = 8 * rng.normal(size=(n, images))
    x = seeds + pictures + interaction
    rest = x - x.mean(1, keepdims=True) - x.mean(0) + x.mean()
    e = (rest**2).sum() / ((n - 1) * (images - 1))
    found = over_seeds_and_images(x).error ** 2
    assert crossed_bootstrap(x, 20_000, rng) == pytest.approx(found + 2 * e / (n * images), rel=0.06)


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize(("seeds", "pictures"), [(0.0, 0.0), (0.03, 0.0), (0.0, 0.3), (0.03, 0.3)])
def test_coverage(n, seeds, pictures):
    """Differences of hits, -1, 0 and 1, whose chances vary by seed and image: the truth is in 93 % or more."""
    rng, images, trials, covered = np.random.default_rng(n), 200, 500, 0
    for _ in range(trials):
        tilt = 0.05 + seeds * rng.normal(size=(n, 1)) + pictures * rng.uniform(-0.5, 0.5, size=(1, images))
        chance = np.clip(0.5 + tilt, 0, 1)
        first, second = (rng.uniform(size=(n, images)) < p for p in (chance, 1 - chance))
        x = first.astype(float) - second
        low, high = over_seeds_and_images(x).interval()
        covered += low <= 2 * 0.05 <= high
    assert covered / trials >= 0.93


def test_holm():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02]), "the example of Holm's paper in any textbook"
    assert holm(np.array([0.9])) == pytest.approx([0.9])
    assert list(holm(np.array([0.6, 0.7]))) == [1, 1], "no probability is more than 1"
    assert holm(np.array([])).size == 0
    assert (holm(p) >= p).all() and (holm(p) <= np.minimum(1, 4 * p)).all()


def test_another_unit_is_the_same_effect():
    effect = Effect(0.2, 0.1, 5, 6, 1000)
    points = effect.scaled(100)
    assert points.interval() == pytest.approx(100 * np.array(effect.interval()))
    assert points.p == pytest.approx(effect.p)
    assert effect.scaled(-1).interval() == pytest.approx([-x for x in reversed(effect.interval())])


def test_two_seeds_on_two_images_by_hand():
    """Means of seeds 1.5 and 5.5, of images 2 and 5; what is left is 1 or -1 everywhere."""
    effect = over_seeds_and_images(np.array([[1.0, 2.0], [3.0, 8.0]]))
    seeds, images, rest = 8 / 2, 4.5 / 2, 4 / 4
    assert (effect.mean, effect.error**2) == pytest.approx((3.5, seeds + images - rest))
    assert effect.freedom == pytest.approx(5.25**2 / (seeds**2 + images**2 + rest**2)), "Satterthwaite"


def test_the_whole_is_no_less_than_either_part():
    """Nearly all is interaction, and its estimate is larger than both: what is left of them would be negative."""
    effect = over_seeds_and_images(np.array([[2.0, -1.0], [-1.0, 1.0]]))
    assert effect.error**2 == pytest.approx(0.125 / 2), "of seeds alone, or of images alone"


def test_one_seed_on_many_images_says_nothing():
    effect = over_seeds_and_images(np.random.default_rng(0).normal(size=(1, 400)) + 9)
    assert (effect.n, effect.images, effect.p) == (1, 400, 1)
    assert effect.interval() == (-np.inf, np.inf)


def test_seeds_that_agree_exactly():
    """On no difference there is nothing to doubt, on another one neither."""
    assert over_seeds(np.zeros(3)).p == 1
    assert over_seeds(np.full(3, 0.5)).p == 0


def test_a_seed_that_is_not_known_is_left_out_of_images_too():
    effects = np.random.default_rng(0).normal(size=(4, 50))
    some = np.insert(effects, 2, np.nan, axis=0)
    assert over_seeds_and_images(some) == over_seeds_and_images(effects)
    assert over_seeds_and_images(some[2:3]).n == 0
