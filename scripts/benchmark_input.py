"""How much of a training epoch goes into input: benchmark_input.py --config=FILE:METHOD.

Alternates epochs with real input and epochs that repeat one batch, in one process, and prints the
ratio of their times pair by pair. The CPU seconds of the process vary less than the time by the
clock where a machine is shared.
"""

import collections
import statistics
import time
from pathlib import Path

from absl import flags
from ml_collections import config_flags
from rich.console import Console

from metriclt_jax.cli import main as cli

_CONFIG = config_flags.DEFINE_config_file('config', None, 'FILE:METHOD[,scale=NAME]')
_PAIRS = flags.DEFINE_integer('pairs', 5, 'pairs of epochs', lower_bound=1)
flags.mark_flag_as_required('config')


def benchmark() -> None:
    """Prints the seconds of each epoch and the ratio of each pair."""
    cli.keep_freed_memory()
    from metriclt_jax.training.loop import IN_FLIGHT, make_batches, make_schedule
    from metriclt_jax.training.progress import Stopwatch
    from metriclt_jax.training.setup import check_batches, make_run
    from metriclt_jax.training.steps import make_train_step

    this = make_run(_CONFIG.value, Path(), Console())
    check_batches(this)
    stage = this.stages[0]
    steps = this.steps_per_epoch(stage)
    step = make_train_step(this.models[stage.name], stage, steps, this.devices)
    schedule = make_schedule(this, stage)
    state = this.initial_state(stage)

    def epoch(state, number, repeat_first):
        batches = make_batches(this, stage, number * steps, steps, repeat_first)
        stopwatch, in_flight = Stopwatch(stage.batch_size), collections.deque()
        cpu = time.process_time()
        for _ in range(steps):
            batch = stopwatch.fetch(batches, in_flight)
            state, loss = step(state, batch, schedule(0))
            in_flight.append(loss)
            if len(in_flight) > IN_FLIGHT:
                in_flight.popleft().block_until_ready()
        loss.block_until_ready()
        times = stopwatch.stop()
        return state, times['seconds'], time.process_time() - cpu, times['input_wait_share']

    state, *_ = epoch(state, 0, repeat_first=False)  # compiles, and checks the cached images
    ratios, cpu_ratios = [], []
    for pair in range(_PAIRS.value):
        state, repeated, repeated_cpu, _ = epoch(state, pair, repeat_first=True)
        state, real, real_cpu, waited = epoch(state, pair, repeat_first=False)
        ratios.append(real / repeated)
        cpu_ratios.append(real_cpu / repeated_cpu)
        print(
            f'real {real:.2f} s  repeated {repeated:.2f} s  ratio {ratios[-1]:.4f}  '
            f'of CPU seconds {cpu_ratios[-1]:.4f}  waiting {100 * waited:.2f} %',
            flush=True,
        )
    print(
        f'{steps * stage.batch_size} images an epoch, median ratio {statistics.median(ratios):.4f}'
        f', of CPU seconds {statistics.median(cpu_ratios):.4f}'
    )


if __name__ == '__main__':
    cli.run(benchmark)
