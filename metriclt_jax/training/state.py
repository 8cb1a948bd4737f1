"""Everything that training changes, in one value, and the optimizer that changes it."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metriclt_jax.training.stages import Stage

_METRIC_KEY = 2**32 - 1  # folded into the stage's key; larger than any step


@flax.struct.dataclass
class TrainState:
    """The state between two steps; what a checkpoint holds."""

    step: jax.Array  # completed updates of this stage, int32
    # Data of the stage's random key; step k draws from `fold_in(key, k)`. A typed key would travel
    # to the host in every step of a multi-host pmap.
    key: jax.Array
    params: Any  # the model's parameters, one entry each for backbone, head and projection
    batch_stats: Any  # BatchNorm statistics
    opt_state: Any  # none for frozen parameters
    metric: Any  # parameters of the metric loss (centers), or {}
    metric_opt_state: Any
    metric_sums: dict[str, jax.Array]  # since the epoch began, of what the objective logs

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def make_optimizer(
    stage: Stage, params: dict[str, Any], steps_per_epoch: int
) -> optax.GradientTransformation:
    """SGD with coupled weight decay for the stage's trainable parameters, zero for the frozen."""
    if sorted(stage.trainable + stage.frozen) != sorted(params):
        names = f'{stage.trainable} and freezes {stage.frozen}'
        raise ValueError(f'{stage.name} trains {names}; together they must be {sorted(params)}')
    recipe = stage.optimizer
    decayed = None
    if recipe.decay == 'kernels':
        decayed = lambda tree: jax.tree_util.tree_map_with_path(  # noqa: E731
            lambda path, _: path[-1].key == 'kernel', tree
        )
    sgd = optax.chain(
        optax.add_decayed_weights(recipe.weight_decay, decayed),
        optax.sgd(stage.learning_rate(steps_per_epoch), recipe.momentum, nesterov=recipe.nesterov),
    )
    labels = {name: 'trained' if name in stage.trainable else 'frozen' for name in params}
    return optax.partition({'trained': sgd, 'frozen': optax.set_to_zero()}, labels)


def create_state(
    stage: Stage, variables: dict[str, Any], key: jax.Array, steps_per_epoch: int, num_classes: int
) -> TrainState:
    """The state at step 0 of a stage, from the model's variables."""
    params = jax.tree.map(jnp.asarray, variables['params'])
    metric, metric_opt_state = {}, optax.EmptyState()
    loss = stage.objective.metric
    if loss is not None:
        feature_dim = params['head']['kernel'].shape[0]
        metric_key = jax.random.fold_in(key, np.uint32(_METRIC_KEY))
        metric = loss.init(metric_key, num_classes, feature_dim)
        metric_opt_state = loss.optimizer.init(metric)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        params=params,
        batch_stats=jax.tree.map(jnp.asarray, variables['batch_stats']),
        opt_state=make_optimizer(stage, params, steps_per_epoch).init(params),
        metric=metric,
        metric_opt_state=metric_opt_state,
        metric_sums={name: jnp.zeros(()) for name in stage.objective.logs},
    )
