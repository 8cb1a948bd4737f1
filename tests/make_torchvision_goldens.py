"""Reference values of torchvision's networks, for `models/test_torchvision_parity.py`.

    python tests/make_torchvision_goldens.py tests/models/goldens/torchvision.npz

Needs torch and torchvision (the file was made with 2.13.0+cpu and 0.28.0); the test needs neither.
Both draw every tensor and image by the rules below, so that the file holds no weights. References
are computed in float64: they are the truth and not torch's rounding. How far torch's own float32 is
from them is printed.

The file holds for each network NAME of `networks` its `NAME/tensors`, names and shapes in torch's
order, and for its image size, e.g. 75x67, and each mode (`train` is with the statistics of the
batch and without dropout)
- `NAME/75x67/MODE/logits` `[B, C]` and `NAME/75x67/MODE/features` `[B, D / 16]`, every sixteenth;
- `NAME/75x67/train/statistics` `[S, 4]`: the sketches of all running statistics after that pass;
- `NAME/75x67/train/gradients` `[P, 4]`, only for the small networks: the sketches of the gradients
  of `sum(logits * draw_cotangent())` with respect to all parameters. In a large one some ReLU is
  always so close to its kink that rounding decides whether it passes the gradient; in these none is
  within 1e-5 of it (the margin is printed).
"""

import sys
from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np

SEED, BATCH, CLASSES = 20, 4, 5
EVERY = 16


class Network(NamedTuple):
    """How to make a network from the keyword `num_classes`, and what is asked of it."""

    make: Callable[..., Any]
    size: tuple[int, int] = (75, 67)
    gradients: bool = False


def networks() -> dict[str, Network]:
    """The networks by name."""
    from functools import partial

    from torchvision import models

    small_resnet = partial(models.ResNet, models.resnet.Bottleneck, [1, 1, 1, 1])
    small_densenet = partial(models.DenseNet, 4, (3, 2, 1, 1), 8)
    small_mobilenet = partial(
        models.MobileNetV2,
        width_mult=0.3,
        inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [4, 32, 2, 1]],
    )
    return {
        'resnet18': Network(models.resnet18),
        'resnet50': Network(models.resnet50),
        'densenet121': Network(models.densenet121, (75, 64)),
        'mobilenet_v2': Network(models.mobilenet_v2),
        'small_resnet50': Network(small_resnet, (41, 40), gradients=True),
        'small_densenet121': Network(small_densenet, (65, 70), gradients=True),
        'small_mobilenet_v2': Network(small_mobilenet, (17, 18), gradients=True),
    }


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The tensor with torchvision's name and torch's layout, float32.

    From a generator seeded by the name. Kernels are normal with variance 1.5 / fan_in, the head's
    with 1 / fan_in; scales of BatchNorm are uniform in [0.4, 1.2], running variances in [0.5, 2];
    running means are normal with standard deviation 0.2, and so are biases, around 0.5. (Around 0,
    the batch statistics of networks this deep would amplify rounding tenfold.)
    """
    generator = np.random.default_rng([SEED, *name.encode()])
    if len(shape) > 1:
        gain = 1.5 if len(shape) == 4 else 1.0
        values = generator.standard_normal(shape) * np.sqrt(gain / prod(shape[1:]))
    elif name.endswith('running_var'):
        values = generator.uniform(0.5, 2, shape)
    elif name.endswith('running_mean'):
        values = 0.2 * generator.standard_normal(shape)
    elif name.endswith('weight'):
        values = generator.uniform(0.4, 1.2, shape)
    else:
        values = 0.5 + 0.2 * generator.standard_normal(shape)
    return values.astype(np.float32)


def draw_images(height: int, width: int) -> np.ndarray:
    """Images `[B, H, W, 3]` float32: noise, each around a colour of its own."""
    generator = np.random.default_rng([SEED, height, width])
    noise = generator.standard_normal((BATCH, height, width, 3))
    return (2 * (noise + generator.standard_normal((BATCH, 1, 1, 3)))).astype(np.float32)


def draw_cotangent() -> np.ndarray:
    """Factors `[B, C]` float32 of the logits."""
    return np.random.default_rng([SEED, BATCH]).standard_normal((BATCH, CLASSES), np.float32)


def sketch(name: str, values: np.ndarray) -> np.ndarray:
    """Four random projections `[4]` of all entries of a tensor in torch's layout."""
    values = np.asarray(values, np.float64).ravel()
    generator = np.random.default_rng([SEED, 4, *name.encode()])
    return values @ generator.standard_normal((values.size, 4)) / np.sqrt(values.size)


def reference(name: str, network: Network, dtype: Any) -> tuple[dict[str, np.ndarray], float]:
    """The values of one network, computed in `dtype`, and the margin of its ReLUs in training."""
    import torch

    margins = []

    def measure(module, inputs):
        if module.training:
            kinks = (0, 6) if isinstance(module, torch.nn.ReLU6) else (0,)
            margins.extend(float((inputs[0].detach() - kink).abs().min()) for kink in kinks)

    def array(tensor):
        return tensor.detach().numpy().astype(np.float64)

    model = network.make(num_classes=CLASSES)
    shapes = {
        key: tuple(tensor.shape)
        for key, tensor in model.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }
    results = {f'{name}/tensors': [' '.join(map(str, [k, *shape])) for k, shape in shapes.items()]}
    drawn = {key: torch.from_numpy(draw(key, shape)) for key, shape in shapes.items()}
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU | torch.nn.ReLU6):
            module.register_forward_pre_hook(measure)
    features = []
    head = model.fc if hasattr(model, 'fc') else model.classifier
    head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0]))
    height, width = network.size
    images = torch.from_numpy(draw_images(height, width).transpose(0, 3, 1, 2).copy())
    for mode in ('eval', 'train'):
        model.load_state_dict(drawn, strict=False)
        model.to(dtype).train(mode == 'train')
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.eval()
        logits = model(images.to(dtype))
        at = f'{name}/{height}x{width}/{mode}'
        results[f'{at}/logits'] = array(logits)
        results[f'{at}/features'] = array(features.pop())[:, ::EVERY]
    results[f'{at}/statistics'] = np.stack(
        [sketch(k, array(t)) for k, t in model.state_dict().items() if '.running_' in k]
    )
    if network.gradients:
        model.zero_grad()
        (logits * torch.from_numpy(draw_cotangent()).to(dtype)).sum().backward()
        results[f'{at}/gradients'] = np.stack(
            [sketch(k, array(p.grad)) for k, p in model.named_parameters()]
        )
    return results, min(margins)


def relative_error(values: np.ndarray, truth: np.ndarray) -> float:
    """The largest difference over the largest value."""
    return float(np.abs(values - truth).max() / np.abs(truth).max())


def sketches_error(values: np.ndarray, truth: np.ndarray) -> float:
    """The largest relative error of all tensors, from their sketches `[T, 4]`.

    A tensor's scale counts as at least a tenth of the largest one: gradients are 0 for biases
    before another norm, and nearly 0 for scales before one.
    """
    scales = np.abs(truth).max(axis=1)
    errors = np.abs(values - truth).max(axis=1)
    return float((errors / np.maximum(scales, 0.1 * scales.max())).max())


def main() -> None:
    """Writes the file that is named on the command line."""
    import torch

    # torchvision's package without its compiled operators asks for these two at import.
    library = torch.library.Library('torchvision', 'DEF')
    library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')

    results = {}
    for name, network in networks().items():
        truth, margin = reference(name, network, torch.float64)
        rounded, _ = reference(name, network, torch.float32)
        print(f'{name}: margin {margin:.1e}')
        for key, values in truth.items():
            if key.endswith('/tensors'):
                results[key] = np.array(values)
            else:
                results[key] = values.astype(np.float32)
                sketched = key.endswith(('/statistics', '/gradients'))
                error = (sketches_error if sketched else relative_error)(rounded[key], values)
                print(f'{key}: {error:.1e}')
    np.savez_compressed(sys.argv[1], **results)


if __name__ == '__main__':
    main()
