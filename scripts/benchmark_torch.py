"""The same work in PyTorch: torchvision's models with augmentation on the device."""

import math
import time
from collections.abc import Callable

import torch
import torchvision
from torch.nn import functional

from metriclt_jax.augment.geometry import AugmentConfig


def make_sample(case: tuple, num_classes: int, gpu: bool, option: str) -> Callable[[int], float]:
    """A function that runs k steps of a `benchmark.Case` and returns the seconds of one.

    'train' is augmentation, cross-entropy, backward pass and SGD with momentum and weight decay;
    'forward' is the logits in evaluation mode. float32 uses TF32 on a GPU, as JAX does; another
    dtype is autocast. The option 'compile' is channels_last with torch.compile.
    """
    what, model, size, dtype, batch = case
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision('high')
    device = 'cuda' if gpu else 'cpu'
    layout = torch.contiguous_format if option == 'default' else torch.channels_last
    net = getattr(torchvision.models, model)(num_classes=num_classes)
    net = net.to(device, memory_format=layout).train(what == 'train')
    call = torch.compile(net) if option == 'compile' else net
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    config = AugmentConfig(crop=size, resize=round(size * 300 / 224))
    stored = torch.randint(0, 256, (batch, 3, config.resize, config.resize), dtype=torch.uint8)
    stored = stored.to(device, memory_format=layout)
    labels = torch.randint(0, num_classes, (batch,), device=device)
    mean = torch.tensor(config.mean, device=device)[:, None, None]
    std = torch.tensor(config.std, device=device)[:, None, None]
    ready = torch.randn(batch, 3, size, size, device=device).to(memory_format=layout)

    def augment() -> torch.Tensor:
        """Rotation, random crop and flip as one map, sampled once."""
        angle = (2 * torch.rand(batch, device=device) - 1) * math.radians(config.rotation)
        flip = 1 - 2 * (torch.rand(batch, device=device) < config.flip).float()
        share = size / config.resize
        shift = (2 * torch.rand(2, batch, device=device) - 1) * (1 - share)
        rows = [
            torch.stack([share * flip * angle.cos(), -share * angle.sin(), shift[0]], dim=1),
            torch.stack([share * flip * angle.sin(), share * angle.cos(), shift[1]], dim=1),
        ]
        grid = functional.affine_grid(
            torch.stack(rows, dim=1), [batch, 3, size, size], align_corners=False
        )
        images = functional.grid_sample(stored.float() / 255, grid, align_corners=False)
        return ((images - mean) / std).contiguous(memory_format=layout)

    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype != 'float32')

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        images = augment()
        with autocast:
            loss = functional.cross_entropy(call(images), labels)
        loss.backward()
        optimizer.step()

    def forward() -> None:
        with torch.inference_mode(), autocast:
            call(ready)

    step = {'train': train, 'forward': forward}[what]

    def wait() -> None:
        if gpu:
            torch.cuda.synchronize()

    def sample(count: int) -> float:
        wait()
        started = time.perf_counter()
        for _ in range(count):
            step()
        wait()
        return (time.perf_counter() - started) / count

    return sample
