"""Compositing on CPU: rays in parallel, each front to back in one pass, and twice in backward."""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from torch import Tensor

from core2d.kernels.numba_cache import njit
from gen3d.kernels.compositing.torch_twin import EARLY_STOP


def forward(thickness: Tensor, values: Tensor, ray_offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See `torch_twin.blend`; float32, contiguous."""
    rays = len(ray_offsets) - 1
    blended = np.zeros((rays, values.shape[1]), np.float32)
    opacity = np.zeros(rays, np.float32)
    weights = np.zeros(len(thickness), np.float32)
    _forward(_array(thickness), _array(values), _array(ray_offsets), blended, opacity, weights)
    return torch.from_numpy(blended), torch.from_numpy(opacity), torch.from_numpy(weights)


def backward(
    grad_blended: Tensor, grad_opacity: Tensor, grad_weights: Tensor, thickness: Tensor, values: Tensor, offsets: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients to thickness (n,) and values (n, c)."""
    grad_thickness = np.zeros(len(thickness), np.float32)
    grad_values = np.zeros(tuple(values.shape), np.float32)
    _backward(
        _array(grad_blended), _array(grad_opacity), _array(grad_weights), _array(thickness), _array(values),
        _array(offsets), grad_thickness, grad_values,
    )  # fmt: skip
    return torch.from_numpy(grad_thickness), torch.from_numpy(grad_values)


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.device.type != "cpu":
        raise ValueError(f"numba compositing needs tensors on the CPU; one is on {tensor.device}")
    return tensor.numpy()


@njit(parallel=True, error_model="numpy")
def _forward(thickness, values, offsets, blended, opacity, weights):
    for ray in numba.prange(len(offsets) - 1):
        transmittance = 1.0
        for i in range(offsets[ray], offsets[ray + 1]):
            if transmittance < EARLY_STOP:
                break
            alpha = -math.expm1(-float(thickness[i]))
            weight = np.float32(transmittance * alpha)
            weights[i] = weight
            opacity[ray] += weight
            for c in range(values.shape[1]):
                blended[ray, c] += weight * values[i, c]
            transmittance *= 1.0 - alpha


@njit(parallel=True, error_model="numpy")
def _backward(grad_blended, grad_opacity, grad_weights, thickness, values, offsets, grad_thickness, grad_values):
    """The loss grows by `gain` with a sample's weight. More thickness adds the weight of the sample itself, as far as
    light comes through it, and takes from all samples behind: T exp(-tau) gain - sum of weight gain behind."""
    for ray in numba.prange(len(offsets) - 1):
        behind = 0.0  # sum of weight times gain, first of all samples, then of those still to come
        transmittance = 1.0
        last = offsets[ray]
        while last < offsets[ray + 1] and transmittance >= EARLY_STOP:
            alpha = -math.expm1(-float(thickness[last]))
            behind += transmittance * alpha * _gain(grad_blended, grad_opacity, grad_weights, values, ray, last)
            transmittance *= 1.0 - alpha
            last += 1
        transmittance = 1.0
        for i in range(offsets[ray], last):
            alpha = -math.expm1(-float(thickness[i]))
            weight = transmittance * alpha
            gain = _gain(grad_blended, grad_opacity, grad_weights, values, ray, i)
            behind -= weight * gain
            transmittance *= 1.0 - alpha
            grad_thickness[i] = transmittance * gain - behind
            for c in range(values.shape[1]):
                grad_values[i, c] = weight * grad_blended[ray, c]


@njit(error_model="numpy")
def _gain(grad_blended, grad_opacity, grad_weights, values, ray, i):
    gain = float(grad_opacity[ray]) + float(grad_weights[i])
    for c in range(values.shape[1]):
        gain += grad_blended[ray, c] * values[i, c]
    return gain
