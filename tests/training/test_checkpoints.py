import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metriclt_jax.devices import place
from metriclt_jax.training.checkpoints import Best, StageCheckpoints
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
            report={'loss': jnp.asarray(0.25)},
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


def steps(checkpoints):
    return sorted(int(path.name) for path in (checkpoints.directory / 'best').iterdir())


def test_a_state_comes_back_bit_for_bit_and_in_its_place(checkpoints):
    state = make_state(7)
    checkpoints.save(7, state, None)
    restored, best = checkpoints.restore(like=make_state(0))
    assert best is None
    assert checkpoints.best_step() is None
    same = jax.tree.map(
        lambda a, b: a.dtype == b.dtype and a.sharding == b.sharding, state, restored
    )
    assert all(jax.tree.leaves(same))
    np.testing.assert_array_equal(state.key, restored.key)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(restored.params), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(restored.metric['centers'], 7.5)


def test_the_best_state_outlives_later_ones(checkpoints):
    checkpoints.save(1, make_state(1), Best(1, 0.5))
    checkpoints.save(2, make_state(2), Best(2, 0.7))
    checkpoints.save(3, make_state(3), Best(2, 0.7))
    checkpoints.save(4, make_state(4), Best(2, 0.7))
    assert (checkpoints.latest_step(), checkpoints.best_step()) == (4, 2)
    restored, best = checkpoints.restore(like=make_state(0))
    assert (value(restored), best) == (4.0, Best(2, 0.7))
    assert value(checkpoints.restore_best_state(like=make_state(0))) == 2.0
    assert steps(checkpoints) == [2]


def test_a_best_state_after_the_latest_is_forgotten(checkpoints):
    checkpoints.save(1, make_state(1), Best(1, 0.5))
    checkpoints.wait()
    # A kill after the best state of step 2 was complete and before the latest one was.
    checkpoints._best.save(2, args=_standard(make_state(2)))
    checkpoints.wait()
    restored, best = checkpoints.restore(like=make_state(0))
    assert (value(restored), best) == (1.0, Best(1, 0.5))
    assert steps(checkpoints) == [1]


def test_a_best_state_that_is_missing_is_made_again_from_the_latest(checkpoints):
    checkpoints.save(2, make_state(2), Best(2, 0.5))
    checkpoints.wait()
    checkpoints._best.delete(2)  # a kill after the latest was complete and before the best was
    checkpoints.restore(like=make_state(0))
    checkpoints.wait()
    assert value(checkpoints.restore_best_state(like=make_state(0))) == 2.0


def test_the_previous_best_stays_until_the_latest_knows_the_new_one(checkpoints):
    checkpoints.save(1, make_state(1), Best(1, 0.5))
    checkpoints.save(2, make_state(2), Best(2, 0.7))
    checkpoints._best.wait_until_finished()
    assert steps(checkpoints) == [1, 2]
    checkpoints.save(3, make_state(3), Best(2, 0.7))
    assert steps(checkpoints) == [2]


def test_a_state_that_is_donated_while_it_is_written_is_saved_as_it_was(checkpoints):
    step = jax.jit(
        lambda state: state.replace(params=jax.tree.map(lambda x: x + 1, state.params)),
        donate_argnums=0,
    )
    state = make_state(5, size=100_000)  # 40 MB, which takes a while to write
    checkpoints.save(5, state, Best(5, 0.5))
    for _ in range(20):
        state = step(state)
    checkpoints.wait()
    restored, _ = checkpoints.restore(like=make_state(0, size=100_000))
    np.testing.assert_array_equal(restored.params['head']['kernel'], 5.0)
    best = checkpoints.restore_best_state(like=make_state(0, size=100_000))
    np.testing.assert_array_equal(best.params['head']['kernel'], 5.0)


def _standard(state):
    import orbax.checkpoint as ocp

    return ocp.args.StandardSave(state)
