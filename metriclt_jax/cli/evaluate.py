"""`evaluate.py --workdir=DIR [--part=test] [--stage=...] [--checkpoint=last|best]`."""

import json
from pathlib import Path

from absl import flags

from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError

_WORKDIR = flags.DEFINE_string('workdir', None, 'work directory of a finished run')
_PART = flags.DEFINE_enum('part', 'test', ['train', 'validation', 'test'], 'what to evaluate on')
_STAGE = flags.DEFINE_string('stage', None, 'stage1 or stage2; the last stage if not given')
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'last', ['last', 'best'], 'last or best state')
_OUTPUT = flags.DEFINE_string('output', None, 'also write the metrics to this JSON file')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'prepared data; as in training if not given')
flags.mark_flag_as_required('workdir')


def evaluate() -> None:
    """Evaluates a state that a run left, on a part of its data set; prints the metrics."""
    from rich.console import Console

    from metriclt_jax.reports.tables import summary_table
    from metriclt_jax.training.results import evaluate_part, trained_states
    from metriclt_jax.training.setup import make_run
    from metriclt_jax.training.workdir import read_config, write_atomically

    cli.keep_freed_memory()
    cli.keep_compiled_programs()
    workdir = Path(_WORKDIR.value).expanduser()
    output = _OUTPUT.value and Path(_OUTPUT.value).expanduser()
    if output and not output.parent.is_dir():
        raise InputError(f'--output is {output}; allowed: a file in a folder that exists')
    config = read_config(workdir)
    with config.unlocked():
        config.num_devices = 0  # those of this machine, whatever the run was trained on
        config.data.data_dir = _DATA_DIR.value or config.data.data_dir
    this = make_run(config, workdir, Console())
    stages = {stage.name: stage for stage in this.stages}
    name = _STAGE.value or this.stages[-1].name
    if name not in stages:
        raise InputError(f'--stage is {name}; allowed: {", ".join(stages)}')
    if not (workdir / 'results.json').exists():
        raise InputError(f'the run in {workdir} is not finished; run its train command again')
    states = trained_states(this, stages[name])
    if _CHECKPOINT.value not in states:
        raise InputError(f'{name} in {workdir} has no best checkpoint: it was never validated')
    variables = states[_CHECKPOINT.value].variables
    result = evaluate_part(this, stages[name], variables, _PART.value)
    if result is None:
        raise InputError(
            f'there is nothing to evaluate: {name} of {this.config.method} trained no classifier, '
            f'or {this.dataset.name} has no {_PART.value} part'
        )
    title = f'{this.dataset.name} {_PART.value}, {name} {_CHECKPOINT.value}'
    this.console.print(summary_table(result.summary, this.dataset.class_names, this.groups, title))
    if output:
        write_atomically(output, json.dumps(result.summary, indent=1) + '\n')


def main() -> None:
    """Entry point."""
    cli.run(evaluate)


if __name__ == '__main__':
    main()
