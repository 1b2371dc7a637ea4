"""Table 1 in PyTorch, channels last: eager in float32 and bfloat16, and `torch.compile`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # pyright: ignore (optional: the `bench` extra)
import torch.nn.functional as F  # pyright: ignore

from bridge_ebm.settings import TrainSettings
from peers import BFLOAT16_TOLERANCE, FLOAT32_TOLERANCE, Peer

Weights = list[Any]


def make_peer(
    variables: dict[str, Any], settings: TrainSettings, pictures: np.ndarray, dtype_name: str, compiled: bool = False
) -> Peer:
    """The peer with products in `dtype_name` ('float32' or 'bfloat16'), eager or compiled; the weights stay float32."""
    dtype = getattr(torch, dtype_name)
    weights, stats = to_torch(variables)
    if compiled:
        torch._inductor.config.compile_threads = 1  # forking workers beside JAX's threads can hang

    def energy(weights: Weights, images: Any) -> Any:
        return paper_energy(weights, stats, images, dtype)

    energy_fn = torch.compile(energy) if compiled else energy

    def energies(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return energy_fn(weights, from_numpy(images)).numpy()

    def chain(starts: np.ndarray, steps: int, noise: float) -> np.ndarray:
        images = run_chain(lambda x: energy_fn(weights, x), from_numpy(starts), steps, noise, settings)
        return images.permute(0, 2, 3, 1).numpy()

    return Peer(
        "torch_compile" if compiled else f"torch_{dtype_name}",
        FLOAT32_TOLERANCE if dtype_name == "float32" else BFLOAT16_TOLERANCE,
        energies,
        chain,
        lambda: _make_update(energy_fn, weights, settings, pictures),
    )


def from_numpy(images: np.ndarray) -> Any:
    """Images [B, H, W, 1] as a tensor [B, 1, H, W] in channels-last memory (the same memory)."""
    return torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)


def conv_weights(conv: Any) -> Weights:
    """A Flax convolution's kernel and bias as PyTorch's, channels last."""
    kernel = torch.from_numpy(np.array(conv["kernel"])).permute(3, 2, 0, 1)
    return [kernel.contiguous(memory_format=torch.channels_last), torch.from_numpy(np.array(conv["bias"]))]


def dense_weights(dense: Any) -> Weights:
    """A Flax dense layer's kernel and bias as PyTorch's."""
    return [torch.from_numpy(np.array(dense["kernel"]).T.copy()), torch.from_numpy(np.array(dense["bias"]))]


def to_torch(variables: dict[str, Any]) -> tuple[Weights, Weights]:
    """Our variables as two lists: the weights in the order of the layers, and mean and variance of each batch norm."""
    params, stats, weights, moving = variables["params"], variables["batch_stats"], [], []
    for index in range(4):
        norm = params[f"BatchNorm_{index}"]
        weights += conv_weights(params[f"Conv_{index}"])
        weights += [torch.from_numpy(np.array(norm[name])) for name in ("scale", "bias")]
        moving += [torch.from_numpy(np.array(stats[f"BatchNorm_{index}"][name])) for name in ("mean", "var")]
    return weights + dense_weights(params["Dense_0"]) + dense_weights(params["Dense_1"]), moving


def same_conv(images: Any, kernel: Any, bias: Any) -> Any:
    """A convolution of stride 2 with TensorFlow's (not symmetric) SAME padding, in the precision of `images`."""
    size = kernel.shape[-1]
    pads = [max((-(-length // 2) - 1) * 2 + size - length, 0) for length in (images.shape[3], images.shape[2])]
    padded = F.pad(images, [part for pad in pads for part in (pad // 2, pad - pad // 2)])
    return F.conv2d(padded, kernel.to(images.dtype), bias.to(images.dtype), stride=2)


def paper_energy(weights: Weights, stats: Weights, images: Any, dtype: Any) -> Any:
    """Energies float32 [B] of images [B, 1, H, W]; activations and products in `dtype`.

    The batch norms never see a batch, so they are folded into the convolutions: up to a third faster than
    `F.batch_norm`, whose backward pass leaves the channels-last layout.
    """
    x = images.to(dtype)
    for index in range(4):
        kernel, bias, scale, shift = weights[4 * index : 4 * index + 4]
        mean, variance = stats[2 * index : 2 * index + 2]
        scale = scale / torch.sqrt(variance + 1e-3)
        x = F.silu(same_conv(x, kernel * scale[:, None, None, None], (bias - mean) * scale + shift))
    flat = x.permute(0, 2, 3, 1).flatten(1)
    hidden = F.silu(F.linear(flat, weights[16].to(dtype), weights[17].to(dtype)))
    return F.linear(hidden.float(), weights[18], weights[19])[:, 0]


def run_chain(energy: Callable[[Any], Any], images: Any, steps: int, noise: float, settings: TrainSettings) -> Any:
    """Equation (12) from images [B, 1, H, W]."""
    for _ in range(steps):
        images = (images + noise * torch.randn_like(images)).clamp_(-1.0, 1.0).requires_grad_()
        (gradient,) = torch.autograd.grad(energy(images).sum(), images)
        gradient.clamp_(-settings.gradient_clip, settings.gradient_clip)
        images = (images.detach() - settings.step_size * gradient).clamp_(-1.0, 1.0)
    return images


def _make_update(
    energy_fn: Any, initial: Weights, settings: TrainSettings, pictures: np.ndarray
) -> Callable[[], float]:
    """The training step around a buffer that is one tensor, a ring with the newest batch last."""
    weights = [value.clone().requires_grad_() for value in initial]
    optimizer = torch.optim.Adam(weights, lr=settings.learning_rate, eps=1e-7, fused=True)
    batch, shape = settings.batch_size, (1, settings.height, settings.width)
    buffer = torch.zeros((settings.buffer_size // batch * batch, *shape))
    buffer[:batch].uniform_(-1.0, 1.0)
    filled, front, images = batch, batch % len(buffer), torch.from_numpy(pictures)

    def update() -> float:
        nonlocal filled, front
        starts = buffer[torch.randint(filled, (batch,))]
        fresh = torch.rand(batch) < settings.restart
        starts[fresh] = torch.rand((int(fresh.sum()), *shape)) * 2 - 1
        frozen = [value.detach() for value in weights]
        fake = run_chain(lambda x: energy_fn(frozen, x), starts, settings.langevin_steps, settings.noise, settings)
        real = images[torch.randint(len(images), (batch,)), None].float() / 127.5 - 1.0
        real = (real + settings.noise * torch.randn_like(real)).clamp_(-1.0, 1.0)
        real_energies, fake_energies = energy_fn(weights, torch.cat([real, fake])).chunk(2)
        regular = settings.alpha * (real_energies**2 + fake_energies**2).mean()
        loss = real_energies.mean() - fake_energies.mean() + regular
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        buffer[front : front + batch] = fake
        filled, front = max(filled, front + batch), (front + batch) % len(buffer)
        return loss.item()

    return update
