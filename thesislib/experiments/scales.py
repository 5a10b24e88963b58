"""The sizes of the experiments: data, networks, length of a cycle, seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from thesislib.config import Run

#: Section 10 tests what was chosen on seeds from this one on.
FRESH = 10
#: Section 10.3 chooses by so many seeds, the first ones, and tests on seeds from this one on.
CHOOSING, FRESHER = 5, 20


@dataclass(frozen=True)
class Scale:
    """Size of the experiments. `networks` are the baselines' fields that differ from the thesis' settings."""

    about: str
    networks: tuple[dict[str, Any], ...]
    cycle: int
    seeds: tuple[int, ...]
    #: its name in `SCALES`: `sections.rows` sets it
    name: str = ""
    #: of the ensembles, whose differences are small; None: as many as elsewhere
    ensemble_seeds: tuple[int, ...] | None = None
    #: cycles before the first minimum of the runs that have one: the thesis stores it at epoch 100 of a cycle of 150
    first: float = 2 / 3
    width: float = 1e-3  # where a section does not vary it
    widths: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4)
    #: a hill far narrower than one step: C5 says it has no effect
    narrow: float = 1e2
    strengths: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    #: learning rates of section 3.1, as factors of the networks' own: the thesis' are 1e-3 to 1 around its 1e-2
    rate_factors: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0)
    #: the least of `strengths` at which every hill of the chapter is left (N >= 20, see `growth`)
    settled: float = 1.0
    many_strengths: tuple[float, ...] = (1.0, 10.0, 100.0)  # of runs with a minimum every cycle
    restart_widths: tuple[float, ...] = (1e-2, 1e-1)  # beside the cosine schedule, further ones than 1e-3
    merged_strength: float = 10.0  # of the runs whose minima are merged
    hills: int = 10  # of the cost's runs
    dense_steps: int = 300  # after each minimum, which section 6 shows step by step
    landscape_images: int = 2000  # of each split, on which the landscape between minima is measured
    plane_points: int = 21  # to a side, of the plane through three minima
    #: of section 7's ensembles by label: the factor of the learning rate with the best ensemble on validation images,
    #: chosen by section 7-1_rates; 1 where there is none, and everywhere where nothing was chosen yet
    opponent_rates: Mapping[str, float] = field(default_factory=dict)
    #: the factors that 7-1_rates tries
    tried_factors: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    #: the variant of section 10 with the best ensemble on validation images, chosen by section 10-1_variants
    better: str = "s = 10"
    #: fields of all runs of sections 10 and 10-1, where those of the scale take too long
    better_fields: Mapping[str, Any] = field(default_factory=dict)
    #: of that variant and of "plain means": the factor of the learning rate, chosen by section 10-3_rates; as above
    better_rates: Mapping[str, float] = field(default_factory=dict)
    #: sections that are made only when they are named: they cost more than all others together; what 7-1, 10-1 and
    #: 10-3 answer is frozen in `opponent_rates`, `better` and `better_rates`
    on_demand: tuple[str, ...] = ("7-1_rates", "10-1_variants", "10-2_ten_members", "10-3_rates")
    lr_step: int | None = None  # epochs between two drops of the step schedule; None: a third of a cycle
    #: (strength, width) -> the accuracy and squared distance that the thesis prints for two cycles, the minimum
    #: after the first
    published: Mapping[tuple[float, float], tuple[str, float]] = field(default_factory=dict)

    def with_seeds(self, seeds: int | Sequence[int] | None) -> Scale:
        """The same size with other seeds, for ensembles too: so many, from 0 on, or these."""
        if seeds is None:
            return self
        chosen = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
        return replace(self, seeds=chosen, ensemble_seeds=chosen)

    def fresh_seeds(self, first: int = FRESH) -> tuple[int, ...]:
        """As many seeds, from that one on: those of section 10, which nothing was chosen by.

        With seeds beyond FRESH from a multiple of it on, so that they stay fresh.

        >>> SCALES["laptop"].with_seeds(12).fresh_seeds()[:2]
        (20, 21)
        """
        times = 1 + max(self.seeds, default=0) // FRESH
        return tuple(seed + first * times for seed in self.seeds)

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates of section 3.1: `rate_factors` times the networks' own."""
        return tuple(float(f"{factor * self.networks[0]['lr']:.6g}") for factor in self.rate_factors)

    def of(self, cycles: float) -> int:
        """That many cycles in epochs, at least one."""
        return max(1, round(cycles * self.cycle))

    def runs(self, cycles: float = 4, seeds: tuple[int, ...] | None = None, **fields: Any) -> list[Run]:
        """One setting for every network and seed (the scale's own seeds if none are given)."""
        lengths = {"epochs": self.of(cycles), "cycle": self.cycle, "lr_step": self.lr_step or -(-self.cycle // 3)}
        return [
            Run(**({"width": self.width} | network | lengths | fields), seed=seed)
            for network in self.networks
            for seed in seeds or self.seeds
        ]


CIFAR10 = {"data": "cifar10", "augment": True, "lr": 0.01}
#: ResNet-20 for a CPU, and all that is stored so that nothing has to be trained twice for a later analysis.
#: Rate and number of images were chosen on validation images (the 5,000 training images behind these) with seed 0 of
#: the baseline, then frozen: after three epochs .575 at 0.05 and .553 at 0.02 (running statistics: .450 and .514), and
#: .574 to .575 whether 500, 1,000, 2,000 or 5,000 images are used.
CIFAR20 = CIFAR10 | {
    "train_size": 20_000, "test_size": 5_000, "model": "resnet20", "precision": "bf16", "lr": 0.05,
    "statistics_images": 2_000, "member_epochs": 4, "dense_steps": 300, "step_losses": True,
}  # fmt: skip

MNIST = Scale(
    "all of MNIST, the thesis' MLP and settings",
    ({"data": "mnist", "model": "mlp", "lr": 0.01},),
    cycle=20,
    settled=10.0,
    seeds=(0, 1, 2),
    ensemble_seeds=(0, 1, 2, 3, 4),
    dense_steps=9_360,  # a cycle: a hill of s = 10 is left after 5,000, of s = 100 after 500
    better="s = 3",  # seeds 0 to 4, 45,000 images to train on, 15,000 to choose by
    better_rates={"plain means": 4.0, "s = 3": 4.0},  # the same seeds and images
    better_fields={"precision": "bf16"},  # two thirds of the time on a CPU that knows bf16
    published={
        (0.0, 0.1): (".981", 19.0),
        (1.0, 0.1): (".981 to .983", 69.0),
        (1.0, 0.01): (".981 to .983", 339.0),
    },
)

SCALES = {
    "smoke": Scale(
        "512 embedded digits, tiny MLP, seconds: for tests",
        ({"data": "mnist5k", "train_size": 512, "test_size": 250, "model": "mlp-tiny", "lr": 0.1},),
        cycle=2,
        seeds=(0,),
        widths=(1e-1, 1e-2),
        strengths=(1.0, 10.0),
        settled=10.0,
        tried_factors=(1.0, 2.0),
        on_demand=(),
    ),
    "laptop": Scale(
        "4,000 embedded MNIST digits, the thesis' MLP: every section in minutes",
        ({"data": "mnist5k", "model": "mlp", "lr": 0.05},),
        cycle=10,
        settled=100.0,
        seeds=(0, 1, 2),
        better="s = 10, hill at mean",  # seeds 0 to 4, 3,000 images to train on, 1,000 to choose by
        better_rates={"plain means": 2.0, "s = 10, hill at mean": 1.0},  # the same seeds and images
        opponent_rates={  # seeds 0 to 2, 3,000 images to train on, 1,000 to choose by
            "constant": 1.0,
            "cosine": 2.0,
            "one cosine": 1.0,
            "two of half": 2.0,
            "SWA": 2.0,
            "independent": 2.0,
            "s = 1": 1.0,
            "s = 10": 1.0,
            "s = 100": 1.0,
        },
    ),
    "mnist": MNIST,
    "fashion": replace(
        MNIST,
        about="Fashion-MNIST in place of MNIST, all else alike: is a result one of these digits?",
        networks=(MNIST.networks[0] | {"data": "fashion"},),
        ensemble_seeds=None,
        better_rates={},
        published={},
    ),
    # Just outside a minimum log d grows by 4 s w lr / (1 - momentum) a step, N = 2,496 s w a cycle: 25 at s = 1 and
    # w = 1e-2. From 20 on a hill is left within the first cycle after it.
    "cifar": Scale(
        "20,000 CIFAR-10 images, ResNet-20 in bf16: five seeds in three days on two cores",
        (CIFAR20,),
        cycle=8,
        seeds=(0, 1, 2, 3, 4),
        first=1.0,
        width=1e-2,
        widths=(1e-1, 3e-2, 1e-2),
        strengths=(1.0, 10.0, 100.0),
        rate_factors=(1.0, 10.0),
        restart_widths=(),
        better="s = 1",  # by N, not by its images: docs/RULES.md
        hills=2,
        landscape_images=500,
        plane_points=11,
    ),
    "thesis": Scale(
        "CIFAR-10, MobileNetV2 and ResNet-32, as in the thesis",
        tuple(CIFAR10 | {"model": model} for model in ("mobilenetv2", "resnet32")),
        cycle=150,
        seeds=(0, 1, 2),
    ),
    "thesis-resnet34": Scale(
        "CIFAR-10, ResNet-34: the earlier runs of the author's notes",
        (CIFAR10 | {"model": "resnet34", "lr": 0.001},),
        cycle=100,
        seeds=(0, 1, 2),
        settled=10.0,
        lr_step=50,
    ),
}
