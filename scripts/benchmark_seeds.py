"""Is one program for several seeds faster? benchmark_seeds.py --config=FILE:METHOD --seeds=3

Trains the first stage of the config with several seeds in two ways, which take turns: each seed by
its own program, one after the other, and all of them by one program (`jax.vmap` of the step over
states and batches). Prints the milliseconds of one update of all seeds, the ratio, and how far the
two ways are apart after two updates.
"""

import statistics
from pathlib import Path

from absl import flags
from ml_collections import config_flags
from rich.console import Console

from metriclt_jax.cli import main as cli

_CONFIG = config_flags.DEFINE_config_file('config', None, 'FILE:METHOD[,scale=NAME]')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'how many', lower_bound=2)
_STEPS = flags.DEFINE_integer('steps', 20, 'updates in a sample', lower_bound=1)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'samples of each way', lower_bound=1)
flags.mark_flag_as_required('config')


def benchmark() -> None:
    """Measures what the flags say; prints it."""
    cli.keep_freed_memory()
    import jax
    import jax.numpy as jnp
    import optax

    from metriclt_jax.benchmark.timing import compare, time_steps
    from metriclt_jax.training.loop import make_batches, make_schedule
    from metriclt_jax.training.setup import check_batches, make_run
    from metriclt_jax.training.steps import make_train_step

    console = Console()
    runs = []
    for seed in range(_SEEDS.value):
        config = _CONFIG.value.copy_and_resolve_references()
        config.seed = seed
        runs.append(make_run(config, Path(), console))
    first = runs[0]
    check_batches(first)
    stage = first.stages[0]
    step = make_train_step(
        first.models[stage.name], stage, first.steps_per_epoch(stage), first.devices
    )
    schedule = make_schedule(first, stage)(0)
    batches = [next(make_batches(run, stage, 0, 1)) for run in runs]
    at_once = jax.jit(jax.vmap(step, in_axes=(0, 0, None)), donate_argnums=0)

    def stacked(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def one_after_the_other(states):
        return [
            step(state, batch, schedule)[0] for state, batch in zip(states, batches, strict=True)
        ]

    all_batches = stacked(batches)

    def together(states):
        return at_once(states, all_batches, schedule)[0]

    apart = [run.initial_state(stage) for run in runs]
    joint = stacked([run.initial_state(stage) for run in runs])
    for _ in range(2):  # compiles; the first update may have a learning rate of 0
        apart, joint = one_after_the_other(apart), together(joint)
    separate = stacked([state.opt_state for state in apart])
    difference = jax.tree.map(lambda a, b: jnp.float32(a - b), joint.opt_state, separate)
    distance = optax.global_norm(difference) / optax.global_norm(separate)

    samples = {'apart': [], 'together': []}
    for _ in range(_REPEATS.value):
        apart, seconds = time_steps(one_after_the_other, apart, _STEPS.value)
        samples['apart'].append(seconds)
        joint, seconds = time_steps(together, joint, _STEPS.value)
        samples['together'].append(seconds)

    compared = compare(samples['together'], samples['apart'])
    medians = {name: 1000 * statistics.median(values) for name, values in samples.items()}
    console.print(
        f'{first.config.model.name} {first.config.augment.crop} px x {stage.batch_size}, '
        f'{len(runs)} seeds: one after the other {medians["apart"]:.1f} ms, in one program '
        f'{medians["together"]:.1f} ms, ratio {compared["median_ratio"]:.2f} '
        f'({min(compared["ratios"]):.2f} to {max(compared["ratios"]):.2f}); after two '
        f'updates the momentum differs by {distance:.1e} of its norm',
        highlight=False,
        soft_wrap=True,
    )


if __name__ == '__main__':
    cli.run(benchmark)
