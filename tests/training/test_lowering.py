"""What a program is lowered to follows from the platform that it is for, not from this one."""

import jax
import jax.numpy as jnp
import pytest

from metriclt_jax.augment import AugmentConfig, augment
from metriclt_jax.models import create_model, initialize

AUGMENT = AugmentConfig(resize=40, crop=32)


@pytest.mark.parametrize(
    ('platform', 'gathers', 'convolution'),
    [('cpu', True, False), ('cuda', True, True), ('tpu', False, True)],
)
def test_each_platform_has_its_own_warp_convolution_and_pooling(platform, gathers, convolution):
    model = create_model('resnet18', 3, stage_sizes=(1,), width=8)
    variables = initialize(model, 0)

    def gradients(params, keys, images):
        x = augment(keys, images, jnp.ones(2), AUGMENT)

        def total(params):
            return jnp.sum(model.apply({**variables, 'params': params}, x).logits)

        return jax.grad(total)(params)

    keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 2))
    images = jax.ShapeDtypeStruct((2, 40, 40, 3), jnp.uint8)
    exported = jax.export.export(jax.jit(gradients), platforms=(platform,))
    program = exported(variables['params'], keys, images).mlir_module()
    assert ('stablehlo.gather' in program) == gathers
    for operation in ('convolution', 'select_and_scatter'):
        assert (f'stablehlo.{operation}' in program) == convolution
