"""The work directory of a run: what is in it, and what a later run may trust."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from metriclt_jax import hosts
from metriclt_jax.config import FIELDS_WITHOUT_INFLUENCE, paper_config
from metriclt_jax.data.defaults import DEFAULTS
from metriclt_jax.data.sources import OWN
from metriclt_jax.data.storage import local_folder
from metriclt_jax.errors import InputError
from metriclt_jax.files import appended, locked, make_folder, read_json, write_atomically, written
from metriclt_jax.paths import is_remote, reached
from metriclt_jax.training.checkpoints import latest_step

# A config file may add fields to these groups, for losses and mixings of its own.
OPEN_GROUPS = ('classification', 'metric', 'mixing')


def config_as_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON returns it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def config_text(config: ConfigDict) -> str:
    """The content of `config.json`."""
    return json.dumps(config_as_json(config), indent=2) + '\n'


def read_config(workdir: Path) -> ConfigDict:
    """The config that made `workdir`; newer fields have the defaults of its data set."""
    path = workdir / 'config.json'
    with reached(workdir):
        if not path.is_file():
            raise InputError(f'{workdir} is not a work directory: it has no config.json')
    config = paper_config().lock()
    for group in OPEN_GROUPS:
        config[group].unlock()
    saved = read_json(path)
    try:
        name = saved.get('data', {}).get('name')
        config.data.update(DEFAULTS.get(name, DEFAULTS[OWN]))
        config.update(lists_to_tuples(saved))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f'{path} does not fit this version ({" ".join(str(error).split())}); use the version '
            'that trained the run'
        ) from None
    return config


def is_made_by(workdir: Path, config: ConfigDict) -> bool:
    """Whether a run of `config` made `workdir`: False if new, `InputError` if another did."""
    with reached(workdir):
        is_file = workdir.is_file()
        names = [path.name for path in workdir.iterdir()] if workdir.is_dir() else []
    if 'config.json' in names:
        configs = read_config(workdir), config
        found, wanted = (flatten_dict(config_as_json(one), sep='.') for one in configs)
        texts = [
            f'{field} was {found.get(field)!r} and is now {wanted.get(field)!r}'
            for field in sorted(found.keys() | wanted.keys())
            if found.get(field) != wanted.get(field) and field not in FIELDS_WITHOUT_INFLUENCE
        ]
        if texts:
            raise InputError(
                f'work directory {workdir} was made by another config ({"; ".join(texts)}); use '
                'another --workdir, or the config that made this one'
            )
        return True
    if wrong := [sign for sign in '[]*?\\' if sign in os.path.abspath(workdir)]:
        raise InputError(
            f'the path of work directory {workdir} has {" ".join(wrong)}, which checkpoints take '
            'for patterns; use another one'
        )
    ours = ('.lock', '.config.json.')  # all that a run leaves that was killed before config.json
    if is_file or not all(name.startswith(ours) for name in names):
        raise InputError(f'work directory {workdir} has no config.json; use a new or empty one')
    return False


def require_writable(workdir: Path) -> None:
    """Raises `InputError` if a run could not be written; leaves nothing behind."""
    if not is_remote(workdir):
        existing = (path for path in (workdir, *workdir.absolute().parents) if path.exists())
        with written(workdir):
            tempfile.TemporaryFile(dir=next(existing)).close()
        return
    with reached(workdir):
        latest_step(workdir)  # asks for what Orbax will ask for
        probe = workdir / '.lock.probe'
        probe.write_bytes(b'')
        probe.unlink()


def finished_results(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """The results of a finished run of `config`, or None."""
    path = workdir / 'results.json'
    with reached(workdir):
        return read_json(path) if is_made_by(workdir, config) and path.exists() else None


@contextmanager
def claim(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Makes `workdir` the work directory of `config` and keeps other runs out of it."""
    with lock_folder(workdir):
        is_made_by(workdir, config)
        write_atomically(workdir / 'config.json', config_text(config))
        yield


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Makes `folder` and keeps others out of it; behind gs://, others of this user and machine."""
    lock = make_folder(local_folder(folder)) / '.lock'
    with written(lock):
        lock.touch()
    busy = f'another process is training in {folder}; wait for it or use another --workdir'
    with locked(lock, busy=busy):
        yield


class EpochLog:
    """A file of JSON lines, one an epoch, each epoch once however often the run was stopped.

    In a multi-host run only the first process writes; the others do nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []  # when the run began or resumed

    def resume(self, steps: dict[str, int]) -> None:
        """Keeps the lines up to the step that each stage resumes from and drops the others."""
        if not hosts.is_first():
            return
        with reached(self.path):
            content = self.path.read_bytes() if self.path.exists() else b''
        for text in content.splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:  # the line that was being written when it was killed
                break
            if line['step'] <= steps[line['stage']]:
                self.lines.append(line)
        write_atomically(self.path, ''.join(json.dumps(line) + '\n' for line in self.lines))

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line, durably: the checkpoint that follows relies on it."""
        if hosts.is_first():
            with appended(self.path) as file:
                file.write(json.dumps(line) + '\n')


def lists_to_tuples(value: Any) -> Any:
    """What JSON returned, with the tuples that a config has instead of lists."""
    if isinstance(value, dict):
        return {name: lists_to_tuples(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return tuple(lists_to_tuples(inner) for inner in value)
    return value
