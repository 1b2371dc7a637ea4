"""The same regression of the energy's gradient in PyTorch, channels last."""

from typing import Any

import numpy as np
import torch  # pyright: ignore (optional: the `bench` extra)
import torch.nn.functional as F  # pyright: ignore

from peers.regression_network import BETAS, HEAD_SCALE, LAYERS, LEARNING_RATE, target_scale
from peers.torch_peer import Weights, conv_weights, dense_weights, from_numpy, same_conv


def to_torch(params: Any) -> Weights:
    """Our parameters: kernel, bias and read-out of each convolution, then the two dense layers."""
    weights = []
    for index in range(len(LAYERS)):
        weights += conv_weights(params[f"Conv_{index}"])
        weights.append(torch.from_numpy(np.array(params[f"Dense_{index}"]["kernel"]).T.copy()))
    for index in (len(LAYERS), len(LAYERS) + 1):
        weights += dense_weights(params[f"Dense_{index}"])
    return weights


def half_picture_energy(weights: Weights, images: Any, dtype_name: str) -> Any:
    """Energies float32 [B] of images [B, 1, H, W]; activations and products in `dtype_name`, read-outs in float32."""
    dtype = getattr(torch, dtype_name)
    x, read_out = images.to(dtype), 0.0
    for index in range(len(LAYERS)):
        kernel, bias, reader = weights[3 * index : 3 * index + 3]
        x = F.silu(same_conv(x, kernel, bias))
        read_out = read_out + F.linear(x.sum((2, 3), dtype=torch.float32), reader)
    kernel, bias, last_kernel, last_bias = weights[3 * len(LAYERS) :]
    x = F.silu(F.linear(x.permute(0, 2, 3, 1).flatten(1), kernel.to(dtype), bias.to(dtype)))
    return (read_out + HEAD_SCALE * F.linear(x.float(), last_kernel, last_bias))[:, 0]


def regression_loss(weights: Weights, x0: Any, x1: Any, t: Any, dtype_name: str) -> Any:
    """The loss of `regression_network.regression_loss` for tensors [B, 1, H, W] and times [B]."""
    t = t[:, None, None, None]
    x_t = ((1.0 - t) * x0 + t * x1).requires_grad_()
    energies = half_picture_energy(weights, x_t, dtype_name)
    (gradient,) = torch.autograd.grad(energies.sum(), x_t, create_graph=True)
    return ((-gradient - (x1 - x0) * target_scale(t)) ** 2).mean()


def energies_and_loss(
    params: Any, x0: np.ndarray, x1: np.ndarray, t: np.ndarray, dtype_name: str
) -> tuple[np.ndarray, float]:
    """Energies [B] of `x1` and the loss, from NumPy arrays, for comparison."""
    weights = to_torch(params)
    noise, pictures = from_numpy(x0), from_numpy(x1)
    energies = half_picture_energy(weights, pictures, dtype_name).numpy()
    return energies, regression_loss(weights, noise, pictures, torch.from_numpy(np.array(t)), dtype_name).item()


def make_update(params: Any, pictures: np.ndarray, batch: int, dtype_name: str) -> Any:
    """The function that does one update on uint8 `pictures` [N, H, W] and returns its loss."""
    weights = [value.clone().requires_grad_() for value in to_torch(params)]
    optimizer = torch.optim.Adam(weights, lr=LEARNING_RATE, betas=BETAS, fused=True)
    images = torch.from_numpy(pictures)

    def update() -> float:
        x1 = images[torch.randint(len(images), (batch,)), None].float() / 127.5 - 1.0
        loss = regression_loss(weights, torch.randn_like(x1), x1, torch.rand(batch), dtype_name)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return update
