"""What a run is: one frozen, fully validated description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from thesislib.system import own
from thesislib.system.errors import UserError
from thesislib.system.fields import LARGEST, Count, NonNegative, Positive, Seed, Size, first_mistake, one_of

#: Raise when the meaning of a network changes, as `identity.REVISION` for all; part of its runs' ids where it is not 1.
#: Version 2: the thesis' initial weights, and its MobileNetV2.
NETWORK_VERSIONS = {"resnet20": 2, "resnet32": 2, "resnet34": 2, "mobilenetv2": 2}

#: The networks (`models`; PLAIN ones have no convolution) and kernels (`kernels`) that come with the package.
PLAIN = ("mlp", "mlp-tiny")
NETWORKS = (*PLAIN, "resnet20", "resnet32", "resnet34", "mobilenetv2")
KERNELS = ("rbf", "tanh")

#: A minimum is one vector in memory, one file, and one hill in every step.
MOST_MINIMA = 1000


class Run(BaseModel):
    """One training run. Equal runs have equal ids, and every field that changes the numbers is here.

    Symbols are those of the thesis: strength s, width w (an *inverse* squared length: a larger w is a
    narrower hill), squared distance d = ||theta - theta_c||^2 over all trainable parameters.

    >>> tl.Run(strength=10, epochs=30, minima="multiple", minima_every=10).minimum_epochs
    [10, 20, 30]
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # data, network, start
    data: str = Field(
        "mnist5k", pattern=r"^[A-Za-z0-9][\w-]*$",
        description="dataset: mnist5k, mnist, fashion, cifar10, cifar100, or the name of a data/<name>.npz of your own",
    )  # fmt: skip
    train_size: Size | None = Field(None, description="use only the first so many training images")
    test_size: Size | None = Field(None, description="use only the first so many test images")
    validation: bool = Field(
        False, description="evaluate on the training images behind the first train_size, not on test images"
    )
    augment: bool = Field(False, description="random crop (pad 4) and flip of the training images")
    augmented_test: bool = Field(False, description="evaluate on augmented test images too, as the thesis did")
    model: Annotated[str, one_of(NETWORKS)] = Field(
        "mlp", description=f"network: {', '.join(NETWORKS)}, or module:name"
    )
    seed: Seed = Field(0, description="seed of the initial weights and of the order of batches")
    init_seed: Seed | None = Field(None, description="another seed for the initial weights alone")
    start: str | None = Field(
        None, pattern=r"^[0-9a-f]{12}:(\d+|final)$", description="start from a minimum of a run, as ID:K"
    )

    # loop and optimiser
    epochs: Size = Field(40, description="passes over the training data")
    batch_size: Size = Field(128, description="images a step; an incomplete last batch is dropped")
    optimizer: Literal["sgd", "adam", "ngd"] = Field("sgd", description="ngd is SGD on g / ||g||")
    lr: Positive = Field(0.05, description="learning rate")
    momentum: Annotated[NonNegative, Field(lt=1)] = Field(0.9, description="momentum (beta_1 of Adam)")
    weight_decay: NonNegative = Field(1e-3, description="L2, in the optimiser")
    cross_entropy: bool = Field(True, description="off: the distance term alone, flat at the very top of a hill")

    swa_from: Size | None = Field(
        None, description="stochastic weight averaging: evaluate the mean of the weights after this and later epochs"
    )
    member_epochs: Size | None = Field(
        None, description="store the mean of the weights over the last so many epochs of each cycle too"
    )
    statistics_images: Size | None = Field(
        None, description="re-estimate BatchNorm's statistics on so many training images before each evaluation"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of products; bf16 is autocast, weights stay fp32")

    # schedules, in epochs
    cycle: Size = Field(10, description="epochs between two restarts of a schedule")
    lr_schedule: Literal["constant", "step", "cosine"] = Field("constant", description="learning rate over time")
    lr_step: Size = Field(4, description="step schedule: epochs between two drops")
    lr_gamma: Annotated[Positive, Field(le=1)] = Field(0.1, description="step schedule: factor of a drop")
    offset: Count = Field(0, description="epochs before the schedules begin")
    strength_schedule: Literal["constant", "cosine", "pulse", "first-half"] = Field(
        "constant",
        description="strength over time: constant, along the cosine, only after each restart, or in the first half of "
        "each cycle",
    )
    pulse: Size = Field(1, description="pulse schedule: epochs with the term after each restart")

    # minima and the distance term
    minima: Literal["single", "multiple", "merge"] = Field("single", description="which minima become hills")
    minima_every: Size | None = Field(None, description="store a minimum after every so many epochs")
    dense_steps: Count = Field(0, description="log single steps after each minimum, up to this one")
    step_losses: bool = Field(False, description="keep the training loss of every step")
    minimum_at_start: bool = Field(False, description="the weights of step 0 are the first minimum")
    merge: Literal["recursive", "mean", "widen"] = Field(
        "recursive", description="half old half new, true mean, or the mean with a hill wide enough for all"
    )
    hill_at: Literal["weights", "mean", "random", "origin"] = Field(
        "weights",
        description="where a minimum's hill is put: there, at its cycle's mean member, at 0, or at a random place that "
        "is as far from the initial weights",
    )
    push: Literal["hill", "random"] = Field(
        "hill", description="random: the term's gradient in a random direction at every step, as long as it is"
    )
    distance: Literal["weights", "filters", "function"] = Field(
        "weights",
        description="what is far from a hill: other weights, the same whatever the length of each filter, or other "
        "predictions on mixed training images",
    )
    kernel: Annotated[str, one_of(KERNELS)] = Field("rbf", description="shape of a hill: rbf, tanh, or module:name")
    strength: NonNegative = Field(1.0, description="height s of the hill; 0 only records the minima")
    width: Positive = Field(1e-3, description="w, an inverse squared length: larger is narrower")
    share: bool = Field(True, description="divide the strength by the number of hills")

    def __init__(self, **fields: Any) -> None:
        """Raises UserError, one line, for the first field that does not fit."""
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise UserError(first_mistake(error, type(self).model_fields)) from None

    @model_validator(mode="after")
    def _fits(self) -> Run:
        if (self.augment or self.augmented_test) and self.data in ("mnist", "mnist5k", "fashion"):
            raise ValueError(f"augment and augmented_test are for photographs, not for {self.data}")
        if self.strength * self.width > LARGEST:
            raise ValueError(f"strength times width must be {LARGEST:g} at most: the slope of a hill is of that order")
        if not self.cross_entropy and not self.strength:
            raise ValueError("nothing to follow: no cross-entropy and strength 0")
        if self.statistics_images and self.model in PLAIN:
            raise ValueError(f"statistics_images is for networks with BatchNorm, not for {self.model}")
        if self.member_epochs and self.member_epochs > self.cycle:
            raise ValueError(f"member_epochs ({self.member_epochs}) is longer than cycle ({self.cycle})")
        if self.hill_at == "mean" and not self.member_epochs:
            raise ValueError("hill_at mean puts hills at mean members: give member_epochs")
        if self.hill_at == "mean" and any(epoch not in self.member_ends for epoch in self.minimum_epochs):
            raise ValueError("hill_at mean: each minimum must be at the end of a cycle; change minima_every or cycle")
        other = (self.hill_at, self.push, self.minima, self.cross_entropy) != ("weights", "hill", "multiple", True)
        if self.distance == "function" and other:
            raise ValueError("distance function is for minima multiple, hill_at weights, push hill and cross_entropy")
        if self.distance == "filters" and self.model in PLAIN:
            raise ValueError(f"distance filters is for networks with BatchNorm, not for {self.model}")
        if self.validation and self.train_size is None:
            raise ValueError("validation takes its images from behind the first train_size: give train_size")
        if self.swa_from and (self.minima_every or self.minimum_at_start):
            raise ValueError("swa_from evaluates averaged weights, which are no minima: leave out minima_every")
        if self.swa_from and self.swa_from > self.epochs:
            raise ValueError(f"swa_from ({self.swa_from}) is after the last epoch ({self.epochs})")
        if len(self._minimum_range) > MOST_MINIMA and self.minima != "single":
            raise ValueError(f"{len(self._minimum_range)} minima, {MOST_MINIMA} at most: raise minima_every")
        if self.strength_schedule == "pulse" and self.pulse > self.cycle:
            raise ValueError(f"pulse ({self.pulse}) is longer than cycle ({self.cycle})")
        return self

    def replace(self, **changes: Any) -> Run:
        """This run with some fields changed, validated anew. Raises UserError."""
        return Run(**(self.model_dump() | changes))

    @property
    def convolutional(self) -> bool:
        """Whether the network is known to have filters, and a BatchNorm behind each."""
        return self.model in NETWORKS and self.model not in PLAIN

    def sources(self) -> dict[str, str]:
        """Short names of the source text of what is one's own, by field. Raises UserError if it is not found."""
        return {field: own.digest(name) for field in ("model", "kernel") if own.is_own(name := getattr(self, field))}

    @property
    def minimum_epochs(self) -> list[int]:
        """Epochs after which a minimum is stored; 0 is the start."""
        start, every = [0] if self.minimum_at_start else [], self._minimum_range
        return [*start, *every[:1]][:1] if self.minima == "single" else [*start, *every]

    @property
    def _minimum_range(self) -> range:
        return range(self.minima_every, self.epochs + 1, self.minima_every) if self.minima_every else range(0)

    @property
    def member_ends(self) -> range:
        """Epochs after which the mean of a cycle's last weights is stored; none without member_epochs."""
        return range(self.offset + self.cycle, self.epochs + 1, self.cycle) if self.member_epochs else range(0)
