"""Everything that training changes, in one value."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from metriclt_jax.training.stages import Stage


@flax.struct.dataclass
class TrainState:
    """The state between two steps; what a checkpoint holds.

    Attributes:
        step: completed updates of this stage, int32.
        key: data of the stage's random key; step k draws from `fold_in(key, k)`. pmap over several
            processes would bring a typed key to the host in every step.
        params: the model's parameters, one entry for each of backbone, head and projection.
        batch_stats: BatchNorm statistics.
        opt_state: the optimizer's state; frozen parameters have none.
        metric: parameters of the metric loss (centres); {} where it has none.
        metric_opt_state: state of their optimizer.
        report: sums since the epoch began of what the objective reports.
    """

    step: jax.Array
    key: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    metric: Any
    metric_opt_state: Any
    report: dict[str, jax.Array]

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def trainable_mask(params: dict[str, Any], stage: Stage) -> Any:
    """A tree of bools like `params`: True below the top-level names that the stage trains.

    Raises:
        ValueError: the stage's trainable and frozen names do not cover each parameter once.
    """
    if sorted(stage.trainable + stage.frozen) != sorted(params):
        raise ValueError(
            f'{stage.name} trains {stage.trainable} and freezes {stage.frozen}, which must be '
            f'{sorted(params)} together'
        )
    return {
        name: jax.tree.map(lambda _, name=name: name in stage.trainable, tree)
        for name, tree in params.items()
    }


def make_optimizer(stage: Stage, params: dict[str, Any], steps_per_epoch: int):
    """SGD with coupled weight decay on the trainable parameters, nothing on the others.

    `masked` alone would let the raw gradients of frozen parameters through; the second mask zeroes
    them. The frozen parameters have no momentum buffers.
    """
    recipe = stage.optimizer
    mask = trainable_mask(params, stage)
    decay_mask = None
    if recipe.decay == 'kernels':
        decay_mask = lambda tree: jax.tree_util.tree_map_with_path(  # noqa: E731
            lambda path, _: path[-1].key == 'kernel', tree
        )
    sgd = optax.chain(
        optax.add_decayed_weights(recipe.weight_decay, decay_mask),
        optax.sgd(stage.learning_rate(steps_per_epoch), recipe.momentum, nesterov=recipe.nesterov),
    )
    frozen = jax.tree.map(lambda trained: not trained, mask)
    return optax.chain(optax.masked(sgd, mask), optax.masked(optax.set_to_zero(), frozen))


def create_state(
    stage: Stage, variables: dict[str, Any], key: jax.Array, steps_per_epoch: int, num_classes: int
) -> TrainState:
    """The state at step 0 of a stage, from the model's variables."""
    params = jax.tree.map(jnp.asarray, variables['params'])
    metric, metric_opt_state = {}, optax.EmptyState()
    report = ['loss']
    if stage.objective.classification is not None:
        report += ['classification', 'accuracy']
    if stage.objective.metric is not None:
        report += ['metric']
        feature_dim = params['head']['kernel'].shape[0]
        center_key = jax.random.fold_in(key, np.uint32(2**32 - 1))  # no step's key
        metric = stage.objective.metric.init(center_key, num_classes, feature_dim)
        metric_opt_state = stage.objective.metric.optimizer.init(metric)
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        key=jax.random.key_data(key),
        params=params,
        batch_stats=jax.tree.map(jnp.asarray, variables['batch_stats']),
        opt_state=make_optimizer(stage, params, steps_per_epoch).init(params),
        metric=metric,
        metric_opt_state=metric_opt_state,
        report={name: jnp.zeros(()) for name in report},
    )
