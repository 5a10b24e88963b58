"""Scores of predictions. Numpy only: they run on stored logits, where no torch is loaded.

Shapes: probabilities [N, C] with rows that sum to 1, labels [N], classes of K members [K, N].
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from scipy import optimize
from scipy.special import logsumexp

#: Random halvings of the test images over which scores after temperature scaling are averaged: a single one is chance.
SPLITS = 5


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits [..., C], in float64."""
    logits = logits.astype(np.float64)
    return logits - logsumexp(logits, axis=-1, keepdims=True)


def accuracy(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose most probable class is the true one."""
    return float((log_probabilities.argmax(-1) == labels).mean())


def nll(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood, in nats."""
    return float(nll_of_each(log_probabilities, labels).mean())


def nll_of_each(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each image, [..., N] of [..., N, K], in nats."""
    return -log_probabilities[..., np.arange(len(labels)), labels]


def agreement(classes: np.ndarray) -> float:
    """Share of images on which all members predict the same class (thesis, table 4.1)."""
    return float((classes == classes[0]).all(0).mean())


def brier(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean squared distance between predicted probabilities and the truth, sum_k (p_k - [k = y])^2 (Brier 1950)."""
    return float(brier_of_each(log_probabilities, labels).mean())


def brier_of_each(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Brier score of each image, [..., N] of [..., N, K]."""
    error = np.exp(log_probabilities)
    error[..., np.arange(len(labels)), labels] -= 1
    return (error**2).sum(-1)


def ece(log_probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error: mean |accuracy - confidence| over equal bins of confidence (Guo et al. 2017)."""
    confidence = np.exp(log_probabilities.max(-1))
    right = log_probabilities.argmax(-1) == labels
    which = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(which, right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))


def disagreement(classes: np.ndarray) -> float:
    """Share of images on which two members differ, mean over the pairs; 0 for one member (Fort et al. 2019)."""
    pairs = list(itertools.combinations(classes, 2))
    return float(np.mean([(a != b).mean() for a, b in pairs])) if pairs else 0.0


def mutual_information(log_probabilities: np.ndarray) -> float:
    """Entropy of the members' mean prediction less their mean entropy, in nats, mean over images; [K, N, C]."""

    def entropy(log_p: np.ndarray) -> np.ndarray:
        return -(np.exp(log_p) * log_p).sum(-1)

    mean = logsumexp(log_probabilities, axis=0) - np.log(len(log_probabilities))
    return float((entropy(mean) - entropy(log_probabilities).mean(0)).mean())


def temperature(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 that minimises the NLL of softmax(log p / T) (Guo et al. 2017)."""
    found = optimize.minimize_scalar(
        lambda log_t: nll(log_softmax(log_probabilities / np.exp(log_t)), labels), bounds=(-3, 3), method="bounded"
    )
    return float(np.exp(found.x))


def calibrated(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log-probabilities [N, C] after temperature scaling, for each of SPLITS random halvings: [SPLITS, N, C].

    Each image gets the temperature that was found on the half it is not in. The halves are random, always the same:
    test images may come in an order, such as that of their classes.
    """
    rng, out = np.random.default_rng(0), np.empty((SPLITS, *log_probabilities.shape))
    for split in out:
        half = rng.permutation(len(labels)) % 2 == 0
        for fit, test in ((half, ~half), (~half, half)):
            t = temperature(log_probabilities[fit], labels[fit])
            split[test] = log_softmax(log_probabilities[test] / t)
    return out


def scaled(
    score: Callable[[np.ndarray, np.ndarray], float], log_probabilities: np.ndarray, labels: np.ndarray
) -> float:
    """A score after temperature scaling, mean over the halvings of `calibrated`.

    Raw scores mis-rank ensembles: what differs is often no more than the temperature (Ashukha et al. 2020).
    """
    return float(np.mean([score(split, labels) for split in calibrated(log_probabilities, labels)]))
