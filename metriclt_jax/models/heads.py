"""What stands on the features: dropout, classifiers, projection of contrastive learning."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from metriclt_jax.devices import example_keys
from metriclt_jax.models.layers import Initializer, constant, uniform


def linear(inputs: int, outputs: int, name: str) -> nn.Module:
    """A linear layer, parameters `kernel` `[inputs, outputs]` and `bias`, drawn as torch does."""
    initializer = uniform(inputs**-0.5)
    return nn.Dense(outputs, kernel_init=initializer, bias_init=initializer, name=name)


def linear_head(features: jax.Array, num_classes: int, scale: float) -> dict[str, jax.Array]:
    """Logits `[B, C]` as a linear function of features `[B, D]`."""
    del scale  # its weights find theirs
    return {'logits': linear(features.shape[-1], num_classes, name='head')(features)}


class _Cosines(nn.Module):
    """Cosines `[B, C]` between features `[B, D]` and the columns of `kernel` `[D, C]`."""

    num_classes: int
    kernel_init: Initializer = uniform(1.0)

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        shape = (features.shape[-1], self.num_classes)
        kernel = self.param('kernel', self.kernel_init, shape)
        return jnp.matmul(l2_normalize(features), l2_normalize(kernel, axis=0), precision='highest')


def cosine_head(features: jax.Array, num_classes: int, scale: float) -> dict[str, jax.Array]:
    """Cosines `[B, C]`, and as logits `scale` times them (Cao et al. 2019, for LDAM)."""
    cosines = _Cosines(num_classes, name='head')(features)
    return {'logits': scale * cosines, 'cosines': cosines}


class _Scales(nn.Module):
    """Logits `[B, C]`, each times the scale of its class."""

    scale_init: Initializer = constant(1.0)

    @nn.compact
    def __call__(self, logits: jax.Array) -> jax.Array:
        return logits * self.param('scale', self.scale_init, logits.shape[-1:])


def rescaled_head(features: jax.Array, num_classes: int, scale: float) -> dict[str, jax.Array]:
    """Linear, times learnable `scales` of the classes (Kang et al. 2020, section 4.2)."""
    logits = linear_head(features, num_classes, scale)['logits']
    return {'logits': _Scales(name='scales')(logits)}


# Each makes the module `head` of the classifier that calls it, and returns its named outputs.
HEADS = {'linear': linear_head, 'cosine': cosine_head, 'rescaled': rescaled_head}


def dropout(
    features: jax.Array, rate: float, key: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Features `[B, D]`, set to 0 with probability `rate`, else divided by `1 - rate`.

    The draw of an example follows from `key` and its index in the batch of all devices.
    """
    keys = example_keys(key, len(features), axis_name)
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, features.shape[1:]))(keys)
    return jnp.where(kept, features / (1 - rate), 0)


class Projection(nn.Module):
    """Features `[B, D]` to embeddings `[B, P]` of unit length (Khosla et al. 2020, section 3.1).

    Linear layers `0`, `1`, ... with ReLU between; three in the paper (section 2.2).
    """

    widths: Sequence[int]

    @nn.compact
    def __call__(self, features: jax.Array) -> jax.Array:
        """Embeddings of `features`."""
        x = features
        for i, width in enumerate(self.widths):
            x = linear(x.shape[-1], width, name=str(i))(x if i == 0 else nn.relu(x))
        return l2_normalize(x)


def l2_normalize(x: jax.Array, axis: int = -1) -> jax.Array:
    """Vectors along `axis` scaled to length 1; overflow gives NaN."""
    squared_norm = jnp.sum(x * x, axis=axis, keepdims=True)
    squared_norm = jnp.where(jnp.isinf(squared_norm), jnp.nan, squared_norm)  # not length 0
    # The floor keeps value and gradient finite at zero; it is torch's, squared.
    return x * lax.rsqrt(jnp.maximum(squared_norm, 1e-24))
