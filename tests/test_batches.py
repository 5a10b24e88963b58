import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from thesislib import datasets
from thesislib.analysis.evaluator import Evaluator
from thesislib.batches import Images, splits
from thesislib.config import Run
from thesislib.datasets import KNOWN, load
from thesislib.models import build
from thesislib.system.augment import crop_and_flip, draw_crops
from thesislib.system.errors import UserError
from thesislib.trainer import Trainer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_an_epoch_is_a_permutation_without_the_incomplete_batch():
    pixels = torch.arange(50, dtype=torch.uint8).view(50, 1, 1).expand(50, 28, 28)
    images = Images(pixels, torch.arange(50), KNOWN["mnist5k"])
    labels = torch.cat([y for _, y in images.shuffled(8, generator())])
    assert len(labels) == 48
    assert len(set(labels.tolist())) == 48
    again = torch.cat([y for _, y in images.shuffled(8, generator())])
    assert torch.equal(labels, again)
    assert not torch.equal(labels, torch.cat([y for _, y in images.shuffled(8, generator(1))]))
    for x, y in images.shuffled(8, generator()):
        assert torch.allclose(x[:, 0, 0, 0], (y / 255 - 0.5) / 0.5, atol=1e-6), "images keep their labels"


def test_cifar_is_normalised_per_channel():
    images = Images(torch.full((2, 32, 32, 3), 255, dtype=torch.uint8), torch.zeros(2), KNOWN["cifar10"])
    x, _ = images.take(torch.arange(2))
    expected = (1 - torch.tensor([0.4914, 0.4822, 0.4465])) / torch.tensor([0.2023, 0.1994, 0.2010])
    assert x.shape == (2, 3, 32, 32)
    assert torch.allclose(x[0, :, 0, 0], expected)


def test_every_crop_is_a_shift_and_maybe_a_mirror_image():
    x = torch.arange(1.0, 3 * 8 * 8 + 1).view(1, 3, 8, 8)
    padded = torch.nn.functional.pad(x, (4, 4, 4, 4))
    shifts = [padded[0, :, i : i + 8, j : j + 8] for i in range(9) for j in range(9)]
    allowed = torch.stack([s for shift in shifts for s in (shift, shift.flip(-1))])
    out = crop_and_flip(x.expand(20_000, 3, 8, 8), draw_crops(20_000, generator()))
    index = {image.numpy().tobytes(): k for k, image in enumerate(allowed)}
    found = torch.tensor([index[image.numpy().tobytes()] for image in out])
    # Each image draws its own: all 162 results occur equally often.
    assert stats.chisquare(torch.bincount(found, minlength=162).numpy()).pvalue > 1e-3


def test_each_image_draws_its_own():
    """Neighbours in a batch, and an image in two epochs, are independent: pairs of draws fill all pairs alike."""
    draws = draw_crops(60_000, generator())
    down, flip = draws // 18, draws % 2
    for a, b in ((down[:-1:2], down[1::2]), (flip[:-1:2], flip[1::2]), (down[:-1:2], flip[1::2])):
        table = torch.zeros(9, 9).index_put_((a, b), torch.tensor(1.0), accumulate=True)
        table = table[table.sum(1) > 0][:, table.sum(0) > 0]
        assert stats.chi2_contingency(table.numpy()).pvalue > 1e-3
    images = Images(torch.randint(0, 256, (300, 32, 32, 3), dtype=torch.uint8), torch.zeros(300), KNOWN["cifar10"])
    g = generator()
    first, second = (torch.cat([x for x, _ in images.shuffled(100, g, augment=True)]) for _ in range(2))
    assert not torch.equal(first, second), "another epoch, other draws"


def test_evaluation_as_the_thesis_did_it(photographs):
    """--augmented-test: every epoch crops the test images anew, its draws repeat, nothing else differs."""
    run = Run(data="cifar10", model="resnet20", batch_size=32, epochs=2, augment=True, augmented_test=True)
    augmented, plain = Trainer(run), Trainer(run.replace(augmented_test=False))
    first, second = augmented.evaluate(), augmented.evaluate()
    assert first == second
    logits = augmented.logits
    plain.evaluate()
    assert not torch.allclose(logits, plain.logits)
    # By hand: the same network on the test images, cropped as this epoch's draws say.
    draws = draw_crops(64, generator(run.seed))
    x, _ = augmented.test_images.take(torch.arange(64), draws)
    with torch.inference_mode():
        assert torch.allclose(augmented.model.eval()(x), logits, atol=1e-5)
    augmented.finished_epochs = 1
    assert augmented.evaluate() != first, "the same network, another epoch's crops"
    augmented.finished_epochs = 0
    assert augmented.epoch()["train_loss"] == plain.epoch()["train_loss"]
    assert augmented.finished_epochs == 1
    assert augmented.evaluate() != first


def test_crops_depend_on_the_seed_alone():
    images = Images(torch.randint(0, 256, (300, 32, 32, 3), dtype=torch.uint8), torch.zeros(300), KNOWN["cifar10"])
    a, b, c = (torch.cat([x for x, _ in images.shuffled(128, generator(s), augment=True)]) for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_too_few_images_are_refused(folders):
    import pytest

    from thesislib.config import UserError

    with pytest.raises(UserError, match="only 4000"):
        splits(Run(train_size=5000), torch.device("cpu"))
    with pytest.raises(UserError, match="^batch_size: "):
        splits(Run(train_size=100), torch.device("cpu"))


@pytest.mark.parametrize(("count", "sizes"), [(64, [32, 32]), (33, [17, 16]), (50, [25, 25]), (1, [1]), (32, [32])])
def test_even_batches_have_every_image_once(count, sizes):
    x = torch.arange(64, dtype=torch.uint8).view(64, 1, 1).expand(64, 28, 28)
    batches = list(Images(x, torch.zeros(64), KNOWN["mnist5k"]).even_batches(count, 32))
    assert [len(batch) for batch in batches] == sizes
    seen = torch.cat(batches)[:, 0, 0, 0]
    assert torch.allclose(seen, (torch.arange(count) / 255 - 0.5) / 0.5, atol=1e-6)


def test_one_image_more_does_not_change_the_statistics(photographs, folders):
    """A last batch of one image had the weight of a whole one: with 33 images half of it all."""
    path = folders / "data" / "cifar10.npz"
    arrays = dict(np.load(path))
    arrays["x_train"][32] = 255  # one that is unlike the others
    np.savez(path, **arrays)
    run = Run(data="cifar10", model="resnet20", batch_size=16)

    def variance(images):
        """Of the stem's output."""
        probe = Evaluator(run, images, batch_size=32)
        probe.at(probe.flat.theta.clone())
        return probe.model[1].running_var

    whole, more = variance(32), variance(33)
    x, _ = Evaluator(run).train.take(torch.arange(32, 33))
    lone = F.conv2d(x, build("resnet20", 0)[0].weight, padding=1).var((0, 2, 3))
    assert ((more - whole).abs() / whole).median() < 0.05
    assert ((lone - whole).abs() / whole / 2).median() > 0.3, "which it would have been"


def test_validation_images_are_those_behind_the_training_images():
    run = Run(train_size=3000, test_size=600, validation=True)
    train, held_out = splits(run, torch.device("cpu"))
    arrays = load("mnist5k")
    assert torch.equal(held_out.images[:, 0], torch.from_numpy(arrays.x_train[3000:3600]))
    assert torch.equal(train.images[:, 0], torch.from_numpy(arrays.x_train[:3000]))
    assert datasets.test_images(run) == 600
    assert datasets.test_images(Run(train_size=3000, validation=True)) == 1000
    with pytest.raises(UserError, match="leaves none"):
        splits(Run(train_size=4000, validation=True), torch.device("cpu"))
    with pytest.raises(UserError, match="only 1000 images"):
        splits(Run(train_size=3000, test_size=1001, validation=True), torch.device("cpu"))
