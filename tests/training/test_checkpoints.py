import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metriclt_jax.devices import place
from metriclt_jax.errors import InputError
from metriclt_jax.training.checkpoints import (
    Best,
    StageCheckpoints,
    latest_step,
    restore_variables,
)
from metriclt_jax.training.state import TrainState


def make_state(step, size=1000):
    return place(
        TrainState(
            step=jnp.asarray(step, jnp.int32),
            key=jax.random.key_data(jax.random.key(3)),
            params={'head': {'kernel': jnp.full((size, 100), float(step))}},
            batch_stats={},
            opt_state=(optax.EmptyState(), jnp.full(3, -1.0 * step)),
            metric={'centers': jnp.full((2, 2), step + 0.5)},
            metric_opt_state=optax.EmptyState(),
            metric_sums={'loss': jnp.asarray(0.25)},
        ),
        jax.devices()[:2],
    )


def value(state):
    return float(state.params['head']['kernel'][0, 0])


@pytest.fixture
def checkpoints(tmp_path):
    opened = StageCheckpoints(tmp_path)
    yield opened
    opened.close()


def steps(directory):
    return sorted(int(path.name) for path in directory.iterdir())


def restored(directory, which):
    variables = restore_variables(directory, which, jax.devices()[:1])
    assert variables.keys() == {'params', 'batch_stats'}
    return float(variables['params']['head']['kernel'][0, 0])


def test_a_state_comes_back_bit_for_bit_and_in_its_place(checkpoints):
    state = make_state(7)
    checkpoints.save(7, state, None)
    again, best = checkpoints.restore(like=make_state(0))
    assert best is None
    same = jax.tree.map(lambda a, b: a.dtype == b.dtype and a.sharding == b.sharding, state, again)
    assert all(jax.tree.leaves(same))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_best_state_outlives_later_ones_also_after_a_restart(tmp_path):
    checkpoints = StageCheckpoints(tmp_path)
    for step, best in ((1, Best(1, 0.5)), (2, Best(2, 0.7)), (3, Best(2, 0.7))):
        checkpoints.save(step, make_state(step), best)
    checkpoints.close()
    assert steps(tmp_path) == [2, 3]
    checkpoints = StageCheckpoints(tmp_path)
    state, best = checkpoints.restore(like=make_state(0))
    assert (value(state), best) == (3.0, Best(2, 0.7))
    for step in (4, 5):
        checkpoints.save(step, make_state(step), best)
    checkpoints.close()
    assert steps(tmp_path) == [2, 5]
    assert (restored(tmp_path, 'last'), restored(tmp_path, 'best')) == (5.0, 2.0)


def test_reading_creates_nothing(tmp_path):
    assert latest_step(tmp_path / 'stage1') is None
    with pytest.raises(InputError, match='no checkpoint'):
        restore_variables(tmp_path / 'stage1', 'last', jax.devices()[:1])
    assert not (tmp_path / 'stage1').exists()


def test_a_stage_that_was_never_validated_has_no_best_state(checkpoints, tmp_path):
    checkpoints.save(1, make_state(1), None)
    checkpoints.close()
    assert restored(tmp_path, 'last') == 1.0
    for which in ('best', 'first'):
        with pytest.raises(InputError, match=which):
            restore_variables(tmp_path, which, jax.devices()[:1])


def test_the_layout_of_version_0_1_0_is_named_instead_of_training_anew(tmp_path):
    (tmp_path / 'latest' / '7').mkdir(parents=True)
    for read in (latest_step, lambda path: restore_variables(path, 'last', jax.devices()[:1])):
        with pytest.raises(InputError, match=r'0\.1\.0'):
            read(tmp_path)


def test_a_half_written_step_does_not_count(checkpoints, tmp_path):
    checkpoints.save(1, make_state(1), None)
    checkpoints.close()
    (tmp_path / '2.orbax-checkpoint-tmp').mkdir()
    assert latest_step(tmp_path) == 1


def test_a_state_that_is_donated_while_it_is_written_is_saved_as_it_was(checkpoints):
    step = jax.jit(
        lambda state: state.replace(params=jax.tree.map(lambda x: x + 1, state.params)),
        donate_argnums=0,
    )
    state = make_state(5, size=100_000)  # 40 MB, which takes a while to write
    checkpoints.save(5, state, Best(5, 0.5))
    for _ in range(20):
        state = step(state)
    again, _ = checkpoints.restore(like=make_state(0, size=100_000))
    np.testing.assert_array_equal(again.params['head']['kernel'], 5.0)
