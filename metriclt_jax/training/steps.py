"""One update, for every stage and every method."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from metriclt_jax.augment.geometry import augment
from metriclt_jax.devices import AXIS, example_keys
from metriclt_jax.training.schedules import Schedule
from metriclt_jax.training.stages import Stage
from metriclt_jax.training.state import TrainState, make_optimizer, trainable_mask

# Folded into a step's key for the keys that are not an example's: no index of one is as large.
DROPOUT, MIXING, SECOND = 2**32 - 1, 2**32 - 2, 2**32 - 3


def make_train_step(
    model: nn.Module,
    stage: Stage,
    steps_per_epoch: int,
    devices: Sequence[jax.Device] | None = None,
) -> Callable[[TrainState, dict[str, jax.Array], Schedule], tuple[TrainState, jax.Array]]:
    """The update of a stage, data-parallel over `devices`.

    Args:
        model: from `create_model` with `axis_name=AXIS`.
        stage: what to minimise and what to train.
        steps_per_epoch: the unit of the learning rate's schedule.
        devices: where to run; all local devices if None.

    Returns:
        `step(state, batch, schedule) -> (state, loss)`, pmap-ed. `state` is not replicated and is
        donated; `batch` has a leading axis of devices; `loss` is the global batch's.
    """

    def augmented(batch, key):
        if stage.augment is None:
            return batch['image']
        keys = example_keys(key, len(batch['label']), AXIS)
        return augment(keys, batch['image'], batch['aspect'], stage.augment)

    def step(state, batch, schedule):
        step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        seen = {'image': augmented(batch, step_key), 'label': batch['label']}
        second = None
        if 'second' in batch:
            second_key = jax.random.fold_in(step_key, SECOND)
            second = augmented(batch['second'], second_key), batch['second']['label']
            seen['second'] = dict(zip(('image', 'label'), second, strict=True))
        if stage.mixing is not None:
            seen['image'], seen['target'] = stage.mixing(
                jax.random.fold_in(step_key, MIXING),
                seen['image'],
                seen['label'],
                schedule.class_counts.size,
                AXIS,
                class_counts=schedule.class_counts,
                second=second,
            )

        def apply(variables, images, **options):
            metric_free = {name: variables[name] for name in ('params', 'batch_stats')}
            outputs, updated = model.apply(
                metric_free,
                images,
                train=True,
                backbone_train=stage.backbone_train,
                mutable=['batch_stats'],
                rngs={'dropout': jax.random.fold_in(step_key, DROPOUT)},
                **options,
            )
            return outputs, updated['batch_stats']

        trained = {name: state.params[name] for name in stage.trainable}

        def objective(trained):
            variables = {
                'params': {**state.params, **trained},
                'batch_stats': state.batch_stats,
                'metric': state.metric,
            }
            return stage.objective(apply, variables, seen, schedule, step_key, AXIS)

        # The local loss is differentiated and the gradients are averaged: the gradient of an
        # averaged loss would be wrong under pmap.
        gradients, evaluated = jax.grad(objective, has_aux=True)(trained)
        gradients, batch_stats, metric_gradients, report = jax.lax.pmean(
            (gradients, evaluated.batch_stats, evaluated.metric_gradients, evaluated.report), AXIS
        )

        mask = trainable_mask(state.params, stage)
        # Frozen parameters get a gradient of zero, which XLA drops with the rest of their update.
        gradients = {**jax.tree.map(jnp.zeros_like, state.params), **gradients}
        optimizer = make_optimizer(stage, state.params, steps_per_epoch)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = jax.tree.map(
            lambda trained, p, u: p + u if trained else p, mask, state.params, updates
        )

        metric, metric_opt_state = state.metric, state.metric_opt_state
        if stage.objective.metric is not None:
            metric_updates, metric_opt_state = stage.objective.metric.optimizer.update(
                metric_gradients, metric_opt_state, metric
            )
            metric = optax.apply_updates(metric, metric_updates)

        first = state.step % steps_per_epoch == 0
        sums = {name: jnp.where(first, 0.0, state.report[name]) + report[name] for name in report}
        state = state.replace(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            metric=metric,
            metric_opt_state=metric_opt_state,
            report=sums,
        )
        return state, report['loss']

    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, 0, None),
        out_axes=(None, None),
        donate_argnums=0,
        devices=devices,
    )
