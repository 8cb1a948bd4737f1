"""What the benchmark measures: the step is the real one, the work is the textbook's."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.augment.geometry import normalize
from metriclt_jax.benchmark.programs import Case, count_work
from metriclt_jax.benchmark.timing import compare, time_steps
from metriclt_jax.config import paper_config
from metriclt_jax.devices import AXIS, place
from metriclt_jax.models import create_model, initialize
from metriclt_jax.training.schedules import Schedule
from metriclt_jax.training.stages import make_stages
from metriclt_jax.training.state import create_state
from metriclt_jax.training.steps import make_train_step

OPTIONS = {'stage_sizes': (1, 1), 'width': 8, 'stem': 'small'}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('model', 'giga_multiplications'),
    # Of an image of 224 px, from torchvision's page of classification models; the head for 1000
    # classes is replaced by one for 7.
    [('resnet50', 4.09), ('densenet121', 2.83), ('mobilenet_v2', 0.30)],
)
def test_work_is_the_published_work(model, giga_multiplications):
    case = Case('forward', model, 224, 'float32', 3, augment=False, remat=False)
    forward = count_work(case)
    assert forward.flops / 3 / 2e9 == pytest.approx(giga_multiplications, abs=0.01)
    train = count_work(case._replace(what='train'))
    stem = {'resnet50': 64 * 49, 'densenet121': 64 * 49, 'mobilenet_v2': 32 * 9}[model]
    assert train.flops == 3 * forward.flops - 3 * 2 * 112 * 112 * 3 * stem
    assert count_work(case._replace(remat=True, augment=True)) == forward


def test_bytes_of_half_the_width_are_half():
    case = Case('forward', 'resnet18', 32, 'float32', 64, augment=False, remat=False)
    full, half = count_work(case), count_work(case._replace(dtype='bfloat16'))
    values = (full.bytes - half.bytes) / 2
    # The stem alone reads 32 x 32 x 3 and writes 16 x 16 x 64 values of each image.
    assert values > 64 * (32 * 32 * 3 + 16 * 16 * 64)
    assert half.bytes > 2 * values  # parameters stay float32
    assert full.flops == half.flops


def test_without_geometry_the_step_takes_images_that_are_ready():
    """Where the augmentation changes nothing, both make the same update."""
    config = paper_config()
    config.method = 'ce'
    config.data.resize = config.augment.crop = 16
    config.augment.rotation = config.augment.flip = 0.0
    config.stage1.warmup_epochs = 0
    config.stage1.learning_rate = 0.1
    (stage,) = make_stages(config)
    random, devices = np.random.default_rng(0), jax.devices()[:1]
    images = random.integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    labels = random.integers(0, 5, 8, dtype=np.int32)
    model = create_model('resnet18', 5, axis_name=AXIS, **OPTIONS)
    schedule = place(Schedule(jnp.ones(5), jnp.ones(5)), devices)

    def update(stage, **batch):
        state = create_state(stage, initialize(model, 0), jax.random.key(7), 10, 5)
        batch = {name: array[None] for name, array in batch.items()}
        step = make_train_step(model, stage, 10, devices)
        return step(place(state, devices), batch, schedule)[0]

    before = initialize(model, 0)['params']
    expected = update(stage, image=images, label=labels, aspect=np.ones(8, np.float32))
    ready = normalize(jnp.asarray(images), stage.augment)
    actual = update(replace(stage, augment=None), image=ready, label=labels)

    def difference(a, b):
        return float(np.linalg.norm(a - b) / max(np.linalg.norm(a), 1e-30))

    for name in ('params', 'batch_stats', 'opt_state'):
        a, b = jax.device_get((getattr(expected, name), getattr(actual, name)))
        differences = jax.tree.leaves(jax.tree.map(difference, a, b))
        assert max(differences) < 1e-5, name
    moved = jax.tree.map(difference, before, jax.device_get(actual.params))
    assert max(jax.tree.leaves(moved)) > 1e-3
    assert int(actual.step) == int(expected.step) == 1


def test_time_steps_runs_as_many_as_it_says():
    carry, seconds = time_steps(lambda x: x + 1, jnp.zeros(()), 5)
    assert float(carry) == 5
    assert seconds > 0


def test_compare_pairs_the_samples():
    assert compare([1.0, 6.0, 2.0], [2.0, 3.0, 4.0]) == {
        'median_ratio': 0.5,
        'ratio_of_minima': 0.5,
        'ratios': [0.5, 2.0, 0.5],
    }
