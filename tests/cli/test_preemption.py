"""SIGTERM at the moments when a pod is preempted: saved, exit code 75, resumed bit for bit."""

import functools
import json
import os
import signal

import pytest
from commands import ROOT, call

FLAGS = [
    f'--config={ROOT}/configs/digits_lt.py:ce_ct_crw',
    '--config.model.options.stage_sizes=(1,)',
    '--config.model.options.width=8',
    '--config.stage1.epochs=2',
    '--config.stage1.warmup_epochs=1',
    '--config.stage2.epochs=1',
    '--config.evaluation.every=1',
    '--config.figures=False',
]


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def on_call(number, owner, name):
    """Makes the `number`-th call of a function begin with SIGTERM."""
    function, calls = getattr(owner, name), []

    @functools.wraps(function)
    def wrapper(*args, **options):
        calls.append(name)
        if len(calls) == number:
            terminate()
        return function(*args, **options)

    setattr(owner, name, wrapper)


def around_the_first_step(before, after):
    """Calls the functions before and after the first training step is dispatched."""
    from metriclt_jax.training import loop

    make, moments = loop.make_train_step, [before, after]

    def make_train_step(*args):
        step = make(*args)

        def wrapper(*arguments):
            if not moments:
                return step(*arguments)
            moments.pop(0)()
            results = step(*arguments)
            moments.pop(0)()
            return results

        return wrapper

    loop.make_train_step = make_train_step


def while_compiling():
    """When the training step was lowered, right before the compiler gets it."""
    import jax

    def listener(event, *_, **__):
        if event.endswith('jaxpr_to_mlir_module_duration') and not compiling:
            compiling.append(event)
            terminate()

    compiling = []
    around_the_first_step(
        lambda: jax.monitoring.register_event_duration_secs_listener(listener), lambda: None
    )


def in_the_first_step():
    """While the devices may still work on it."""
    around_the_first_step(lambda: None, terminate)


def in_validation():
    from metriclt_jax.training.setup import Run

    on_call(1, Run, 'evaluate')


def in_the_final_evaluation():
    """In the first of the evaluations after the three validations."""
    from metriclt_jax.training.setup import Run

    on_call(4, Run, 'evaluate')


def outcome(workdir):
    results = json.loads((workdir / 'results.json').read_text())
    results.pop('seconds')
    return results, *(
        (workdir / name).read_bytes() for name in ('metrics.jsonl', 'predictions.npz')
    )


@pytest.fixture(scope='module')
def train(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp('data')
    flags = [*FLAGS, f'--config.data.data_dir={data_dir}']
    return lambda workdir, *more, **options: call(
        'train', *flags, *more, f'--workdir={workdir}', **options
    )


@pytest.fixture(scope='module')
def undisturbed(train, tmp_path_factory):
    workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
    result = train(workdir)
    assert result.returncode == 0, result.stderr
    return outcome(workdir)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('moment', 'saved'),
    [
        (while_compiling, 'saved stage1 at step 1 of'),
        (in_the_first_step, 'saved stage1 at step 1 of'),
        (in_validation, 'saved stage1 at step 11 of 22'),
        (in_the_final_evaluation, 'all stages are trained and saved'),
    ],
)
def test_preempted(train, undisturbed, tmp_path, moment, saved):
    workdir = tmp_path / 'run'
    result = train(workdir, before=moment)
    assert result.returncode == 75, result.stderr
    assert saved in result.stdout
    assert not (workdir / 'results.json').exists()
    # The rest is traced, which changes nothing either.
    result = train(workdir, '--profile=2')
    assert result.returncode == 0, result.stderr
    assert outcome(workdir) == undisturbed
    traces = list((workdir / 'profile').glob('stage?/plugins/profile/*/*.xplane.pb'))
    assert bool(traces) == (moment is not in_the_final_evaluation)
    assert all(trace.stat().st_size for trace in traces)
