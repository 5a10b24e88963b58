"""Scores of predictions. Numpy only: they run on stored logits, where no torch is loaded.

Shapes: probabilities [N, C] with rows that sum to 1, labels [N], classes of K members [K, N].
"""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities of logits [..., C], in float64."""
    logits = logits.astype(np.float64)
    return logits - logsumexp(logits, axis=-1, keepdims=True)


def accuracy(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose most probable class is the true one."""
    return float((log_probabilities.argmax(-1) == labels).mean())


def nll(log_probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood, in nats."""
    return float(-np.take_along_axis(log_probabilities, labels[:, None], -1).mean())


def agreement(classes: np.ndarray) -> float:
    """Share of images on which all members predict the same class (thesis, table 4.1)."""
    return float((classes == classes[0]).all(0).mean())
