"""One update, for every stage and every method."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from metriclt_jax.augment.geometry import augment
from metriclt_jax.devices import AXIS, example_keys
from metriclt_jax.training.schedule import LossInputs
from metriclt_jax.training.stages import Stage
from metriclt_jax.training.state import TrainState, make_optimizer

# Folded into a step's key for draws that are not an example's; larger than any example's index.
DROPOUT, MIXING, SECOND = 2**32 - 1, 2**32 - 2, 2**32 - 3

Step = Callable[
    [TrainState, dict[str, jax.Array], LossInputs], tuple[TrainState, dict[str, jax.Array]]
]


def make_train_step(
    model: nn.Module,
    stage: Stage,
    steps_per_epoch: int,
    devices: Sequence[jax.Device] | None = None,
) -> Step:
    """The update of a stage, data-parallel over `devices` (None: all local ones).

    It is `step(state, batch, inputs) -> (state, logs)`, pmap-ed. `state` is not replicated and is
    donated; `batch` has a leading axis of devices; `logs` are scalars of the global batch. `model`
    comes from `create_model` with `axis_name=AXIS`.
    """

    def step(state, batch, inputs):
        step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        batch = prepare(batch, inputs, step_key)
        images, options = batch['image'], {}
        if stage.branches > 1 and 'second' in batch:  # BBN: each branch sees its own batch
            images = (batch['image'], batch['second']['image'])
            options = {'branch_weights': 2 * inputs.branch_weights}

        def loss(trained):
            outputs, updated = model.apply(
                {'params': {**state.params, **trained}, 'batch_stats': state.batch_stats},
                images,
                train=True,
                backbone_train=stage.backbone_train,
                mutable=['batch_stats'],
                rngs={'dropout': jax.random.fold_in(step_key, DROPOUT)},
                **options,
            )
            value, logs = stage.objective(outputs, batch, inputs, state.metric, AXIS)
            return value, (outputs, updated['batch_stats'], logs)

        trained = {name: state.params[name] for name in stage.trainable}
        gradients, (outputs, batch_stats, logs) = jax.grad(loss, has_aux=True)(trained)
        gradients, batch_stats = jax.lax.pmean((gradients, batch_stats), AXIS)

        # The optimizer updates frozen parameters by zero, whatever their gradient.
        optimizer = make_optimizer(stage, state.params, steps_per_epoch)
        gradients = {**jax.tree.map(jnp.zeros_like, state.params), **gradients}
        with jax.named_scope('optimizer'):
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)

        # The metric loss's own parameters follow its plain value: their step must not scale with
        # the coefficient, nor move the features.
        metric, metric_opt_state = state.metric, state.metric_opt_state
        if stage.objective.metric is not None:
            loss_of = stage.objective.metric
            own_loss = loss_of.own_loss or loss_of.loss
            gradients = jax.grad(own_loss)(metric, outputs, batch['label'], AXIS)
            gradients = jax.lax.pmean(gradients, AXIS)
            updates, metric_opt_state = loss_of.optimizer.update(
                gradients, metric_opt_state, metric
            )
            metric = optax.apply_updates(metric, updates)

        logs = jax.lax.pmean(logs, AXIS)
        begins = state.step % steps_per_epoch == 0
        sums = {name: jnp.where(begins, 0.0, state.metric_sums[name]) + logs[name] for name in logs}
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            metric=metric,
            metric_opt_state=metric_opt_state,
            metric_sums=sums,
        )
        return state, logs

    def prepare(batch, inputs, step_key):
        """Augments and mixes the batch, and the second one beside it if there is one."""
        ready = {'image': augmented(batch, step_key), 'label': batch['label']}
        second = batch.get('second')
        if second is not None:
            image = augmented(second, jax.random.fold_in(step_key, SECOND))
            ready['second'] = second = {'image': image, 'label': second['label']}
        if stage.mixing is not None:
            ready['image'], ready['target'] = stage.mixing(
                jax.random.fold_in(step_key, MIXING),
                ready['image'],
                ready['label'],
                inputs.class_counts.size,
                AXIS,
                class_counts=inputs.class_counts,
                second=second and (second['image'], second['label']),
            )
        return ready

    def augmented(batch, key):
        keys = example_keys(key, len(batch['label']), AXIS)
        with jax.named_scope('augmentation'):
            return augment(keys, batch['image'], batch['aspect'], stage.augment)

    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )
