"""Commands in processes of their own, forked from one that has imported the package."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]

_context = multiprocessing.get_context('forkserver')
_context.set_forkserver_preload(
    ['metriclt_jax.predictions', 'metriclt_jax.reproduce', 'metriclt_jax.reports.report']
)


class Result(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


class Command:
    """A running command of `scripts`; its process calls `before`, if any, first."""

    def __init__(self, name, *flags, devices=1, before=None):
        self._folder = tempfile.TemporaryDirectory()
        arguments = name, [str(flag) for flag in flags], devices, before, self._folder.name
        self.process = _context.Process(target=_run, args=arguments)
        self.process.start()

    def finish(self):
        self.process.join(timeout=400)
        self.process.kill()  # only if that was not enough
        with self._folder as folder:
            texts = [Path(folder, name).read_text() for name in ('stdout', 'stderr')]
        return Result(self.process.exitcode, *texts)


def call(name, *flags, **options):
    return Command(name, *flags, **options).finish()


def succeed(name, *flags, **options):
    """What the command printed to stdout."""
    result = call(name, *flags, **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def assert_refused(result, *words):
    """The command ended in one sentence, which has the words."""
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith('decoding ')]
    assert line.startswith('error: ')
    for word in words:
        assert word in line, line


def _run(name, flags, devices, before, folder):
    for number, file in ((1, 'stdout'), (2, 'stderr')):
        os.dup2(os.open(Path(folder, file), os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    sys.path.insert(0, f'{ROOT}/scripts')
    os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count={devices}'
    os.environ['COLUMNS'] = '80'
    sys.argv = [f'{name}.py', *flags]
    if before is not None:
        before()
    runpy.run_path(f'{ROOT}/scripts/{name}.py', run_name='__main__')
