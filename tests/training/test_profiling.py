"""`--profile=STEPS`: the trace holds the steps that were asked for, and changes no result."""

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from metriclt_jax.training.profiling import traced


def steps_in(directory):
    """The numbers of the steps in the one trace below a directory, as TensorBoard finds it."""
    (file,) = directory.glob('plugins/profile/*/*.xplane.pb')
    found = set()
    for plane in ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name == 'train':
                    found.add(dict(event.stats)['step_num'])
    return found


@pytest.mark.parametrize(('asked', 'done'), [(1, 9), (3, 9), (50, 9)])
def test_the_steps_after_compilation_are_traced(tmp_path, asked, done):
    add = jax.jit(lambda x, y: (x + y, {'loss': x}))
    total = jnp.zeros(())
    with traced(add, asked, tmp_path / 'profile') as step:
        for number in range(done):
            total, logs = step(total, 1.0)
            assert logs['loss'] == number
    assert total == done
    assert steps_in(tmp_path / 'profile') == set(range(3, min(asked + 2, done) + 1))


def test_nothing_is_traced_unless_asked_for_or_before_the_steps_come(tmp_path):
    with traced(len, 0, tmp_path) as step:
        assert step is len
    with traced(lambda: None, 4, tmp_path) as step:
        step()
    assert not list(tmp_path.iterdir())
