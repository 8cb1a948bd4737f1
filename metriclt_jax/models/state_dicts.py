"""Where the arrays of a network are in a checkpoint, and which network they look like."""

from collections.abc import Iterator, Mapping
from typing import Any

from metriclt_jax.errors import InputError

# By the name of an array that no other family has, and the number of convolutions.
_RESNETS = {20: 'resnet18', 36: 'resnet34', 53: 'resnet50', 104: 'resnet101', 155: 'resnet152'}
_DENSENETS = {120: 'densenet121', 160: 'densenet161', 168: 'densenet169', 200: 'densenet201'}
_FAMILIES = {
    'layer1.0.conv1.weight': _RESNETS,
    'features.denseblock1.denselayer1.conv1.weight': _DENSENETS,
    'features.1.conv.0.0.weight': {52: 'mobilenet_v2'},
}
# Networks of other libraries, by the name of an array.
_OTHERS = {
    'conv1.0.weight': "a ResNet with a deep stem, such as timm's resnet50d",
    'layer1.0.shortcut.0.weight': "a ResNet for CIFAR, which is not torchvision's",
    'conv_stem.weight': "timm's EfficientNet or MobileNet, whose names are not torchvision's",
    'stem.0.weight': "timm's ConvNeXt",
    'patch_embed.proj.weight': 'a vision transformer',
    'conv_proj.weight': 'a vision transformer',
    'embedder.embedder.convolution.weight': "a ResNet of Hugging Face's transformers",
    'features.0.weight': 'VGG or AlexNet',
    'features.1.0.block.0.0.weight': 'EfficientNet',
    'features.1.0.block.0.weight': 'ConvNeXt',
    'features.1.block.0.0.weight': 'MobileNetV3',
}


def find(content: Mapping[str, Any], first: str, label: Any) -> dict[str, Any]:
    """The arrays of the network whose first array is called `first`, without a common prefix.

    They may be an entry of the checkpoint `content`, however deep. Where they are not found, all
    arrays of its largest entry are returned; where two entries have them, or others are beside
    them, it raises `InputError`.
    """
    entries = {where: arrays for where, arrays in _entries(content, ()) if arrays}
    found, mixed = {}, []
    for where, arrays in entries.items():
        above = [name.removesuffix(first) for name in arrays if f'.{name}'.endswith(f'.{first}')]
        prefix = min(above, key=len, default='')
        others = [name for name in arrays if not name.startswith(prefix)]
        if above and not others:
            found[where] = {name.removeprefix(prefix): array for name, array in arrays.items()}
        elif 0 < len(others) < 0.6 * len(arrays):  # MoCo has two networks of equal size
            mixed.append((prefix, others))
    if len(found) > 1:
        names = ' and '.join('.'.join(where) or 'the file itself' for where in found)
        raise InputError(
            f'{label} has weights in {names}; save the ones to use in a file of their own'
        )
    if found:
        return next(iter(found.values()))
    if mixed:
        prefix, others = mixed[0]
        raise InputError(
            f'{label} has the network below {prefix!r} and other arrays beside it '
            f'({", ".join(others[:3])}{", ..." if len(others) > 3 else ""}); '
            f'save those below {prefix!r} alone'
        )
    return max(entries.values(), key=len, default=dict(content))


def architecture(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What a network looks like from the names and shapes of its arrays, or None."""
    for depth in range(4):  # below prefixes that only some of the names share
        below = {_strip(name, depth): shape for name, shape in shapes.items()}
        convolutions = sum(len(shape) == 4 for shape in below.values())
        for name, members in _FAMILIES.items():
            if name in below and convolutions in members:
                return members[convolutions]
        for name, what in _OTHERS.items():
            if name in below:
                return what
    return None


def _entries(content: Mapping, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict]]:
    """Each mapping in `content`, itself among them, as its arrays by name and where it is."""
    yield where, {str(name): value for name, value in content.items() if hasattr(value, 'shape')}
    for name, value in content.items():
        if isinstance(value, Mapping):
            yield from _entries(value, (*where, str(name)))


def _strip(name: str, depth: int) -> str:
    return '.'.join(name.split('.')[depth:])
