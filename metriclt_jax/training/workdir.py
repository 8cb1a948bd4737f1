"""The work directory of a run: what is in it, and what a later run may trust."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from metriclt_jax.config import FIELDS_WITHOUT_INFLUENCE, paper_config
from metriclt_jax.data.defaults import DEFAULTS
from metriclt_jax.data.sources import OWN
from metriclt_jax.errors import InputError
from metriclt_jax.files import locked, read_json, write_atomically

# A config file may add fields to these groups, for losses and mixings of its own.
OPEN_GROUPS = ('classification', 'metric', 'mixing')


def config_as_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON returns it: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def read_config(workdir: Path) -> ConfigDict:
    """The config that made `workdir`; newer fields have the defaults of its data set."""
    path = workdir / 'config.json'
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
    """Whether an earlier run of `config` made `workdir`; False if it is still to be made.

    Raises:
        InputError: it belongs to another config, or is something else.
    """
    refuse_remote(workdir)
    if (workdir / 'config.json').exists():
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
    ours = ('.lock', '.config.json.')  # all that a run leaves that was killed before config.json
    if workdir.exists() and (
        not workdir.is_dir() or any(not path.name.startswith(ours) for path in workdir.iterdir())
    ):
        raise InputError(
            f'work directory {workdir} exists and has no config.json; use a new or empty directory'
        )
    return False


def refuse_remote(workdir: Path) -> None:
    """Raises `InputError` for an address such as gs://bucket, of which Path makes gs:/bucket."""
    if re.match(r'\w+:/', str(workdir)):
        raise InputError(
            f'work directory {workdir} is remote; train in a local directory and copy it afterwards'
        )


def finished_results(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """The results of a finished run of `config`, or None."""
    path = workdir / 'results.json'
    return read_json(path) if is_made_by(workdir, config) and path.exists() else None


@contextmanager
def claim(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Makes `workdir` the work directory of `config` and keeps other runs out of it."""
    with lock_folder(workdir, 'training in'):
        is_made_by(workdir, config)
        text = json.dumps(config_as_json(config), indent=2) + '\n'
        write_atomically(workdir / 'config.json', text)
        yield


@contextmanager
def lock_folder(folder: Path, doing: str) -> Iterator[None]:
    """Makes `folder` and keeps other processes out of it, which learn what we are `doing`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / '.lock').touch()
    except OSError as error:
        raise InputError(
            f'work directory {folder} cannot be written to ({error.strerror}); use another one'
        ) from None
    busy = f'another process is {doing} {folder}; wait for it or use another --workdir'
    with locked(folder / '.lock', busy=busy):
        yield


class EpochLog:
    """A file of JSON lines, one an epoch, each epoch once however often the run was stopped.

    In a multi-host run only the first process `writes`; the others do nothing.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.lines: list[dict[str, Any]] = []

    def resume(self, steps: dict[str, int]) -> None:
        """Keeps the lines up to the step that each stage resumes from and drops the others."""
        if not self.writes:
            return
        if self.path.exists():
            for text in self.path.read_text().splitlines():
                try:
                    line = json.loads(text)
                except json.JSONDecodeError:  # the line that was being written when it was killed
                    break
                if line['step'] <= steps[line['stage']]:
                    self.lines.append(line)
        write_atomically(self.path, ''.join(json.dumps(line) + '\n' for line in self.lines))

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line, durably: the checkpoint that follows relies on it."""
        if not self.writes:
            return
        self.lines.append(line)
        with self.path.open('a') as file:
            file.write(json.dumps(line) + '\n')
            file.flush()
            os.fsync(file.fileno())


def lists_to_tuples(value: Any) -> Any:
    """What JSON returned, with the tuples that a config has instead of lists."""
    if isinstance(value, dict):
        return {name: lists_to_tuples(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return tuple(lists_to_tuples(inner) for inner in value)
    return value
