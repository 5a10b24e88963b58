import pytest
import torch

from thesislib.kernels import KERNELS

D = torch.logspace(-6, 3, 60, dtype=torch.float64)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
@pytest.mark.parametrize("width", [1e-4, 1e-2, 1.0])
class TestKernels:
    def test_slope_is_the_derivative(self, kernel, width):
        d = D.clone().requires_grad_()
        (derivative,) = torch.autograd.grad(kernel(d, width)[0].sum(), d)
        assert torch.allclose(kernel(D, width)[1], derivative, rtol=1e-12, atol=1e-300)

    def test_value_is_the_formula(self, kernel, width):
        formula = {"rbf": torch.exp(-width * D), "tanh": 1 - torch.tanh(width * D)}[kernel.__name__]
        assert torch.allclose(kernel(D, width)[0], formula, rtol=1e-12, atol=1e-15)

    def test_limits(self, kernel, width):
        zero, far = torch.tensor(0.0, dtype=torch.float64), torch.tensor(1e9 / width, dtype=torch.float64)
        assert kernel(zero, width)[0] == 1
        assert torch.isclose(kernel(zero, width)[1], torch.tensor(-width, dtype=torch.float64))
        assert kernel(far, width)[0] == 0
        assert kernel(far, width)[1] == 0

    def test_falls_everywhere(self, kernel, width):
        assert (kernel(D, width)[1] <= 0).all()
        assert (kernel(D, width)[0].diff() <= 0).all()


def test_width_is_an_inverse_squared_length():
    assert torch.isclose(KERNELS["rbf"](torch.tensor(1000.0), 1e-3)[0], torch.tensor(-1.0).exp())
    assert torch.isclose(KERNELS["tanh"](torch.tensor(1000.0), 1e-3)[0], 1 - torch.tensor(1.0).tanh())
