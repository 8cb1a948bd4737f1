"""The work directory of a run: what is in it, and what a later run may trust."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from metriclt_jax import hosts
from metriclt_jax.config import paper_config
from metriclt_jax.errors import InputError
from metriclt_jax.files import locked, read_json, write_atomically

# Fields that may change when a run goes on: they have no influence on its results.
WITHOUT_INFLUENCE = ('data.data_dir', 'figures', 'checkpoint_every')


# A config file may add fields to these, for losses and mixings of its own.
OPEN_GROUPS = ('classification', 'metric', 'mixing')


def config_as_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def is_made_by(workdir: Path, config: ConfigDict) -> bool:
    """Whether an earlier run of `config` made `workdir`; False if it may be made. Writes nothing.

    Raises:
        InputError: it belongs to another config, or is something else.
    """
    path = workdir / 'config.json'
    if path.exists():
        found, wanted = config_as_json(read_config(workdir)), config_as_json(config)
        fields = [
            text for name, text in _differences(found, wanted) if name not in WITHOUT_INFLUENCE
        ]
        if fields:
            raise InputError(
                f'work directory {workdir} was made by another config ({"; ".join(fields)}); '
                'use another --workdir, or the config that made this one'
            )
        return True
    ours = ('.lock', '.config.json.')  # what a run leaves that was killed before config.json
    if workdir.exists() and (
        not workdir.is_dir() or any(not path.name.startswith(ours) for path in workdir.iterdir())
    ):
        raise InputError(
            f'work directory {workdir} exists and has no config.json; use one that is new, empty '
            'or made by an earlier run'
        )
    return False


def require_same(config: ConfigDict) -> None:
    """Checks that all processes of a run have the config of the first; their data may lie apart.

    Raises:
        InputError: the fields that differ in this process or another.
    """
    first = hosts.of_first(lambda: config_as_json(config))

    def check() -> None:
        found = _differences(first, config_as_json(config))
        fields = [text for name, text in found if name != 'data.data_dir']
        if fields:
            raise InputError(
                f'the config differs from that of the first process ({"; ".join(fields)}); start '
                'all processes with the same flags'
            )

    hosts.together(check)


@contextmanager
def claim(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Makes `workdir` the work directory of `config` and keeps other runs out of it.

    Raises:
        InputError: see `is_made_by`; or another process trains there; or it cannot be written to;
            or a process of this run does not see it.
    """
    lock = hosts.together(
        lambda: lock_folder(workdir, 'training in') if hosts.is_first() else nullcontext()
    )
    with lock:
        hosts.on_first(lambda: _write_config(workdir, config))
        hosts.together(lambda: _require_shared(workdir))
        yield


@contextmanager
def lock_folder(folder: Path, doing: str) -> Iterator[None]:
    """Makes `folder` and keeps other processes out of it.

    Raises:
        InputError: the folder cannot be written to, or another process is `doing` something in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / '.lock').touch()
    except OSError as error:
        raise InputError(
            f'work directory {folder} cannot be written to: {error.strerror}; use another one'
        ) from None
    busy = f'another process is {doing} {folder}; wait for it or use another --workdir'
    with locked(folder / '.lock', busy=busy):
        yield


def _write_config(workdir: Path, config: ConfigDict) -> None:
    is_made_by(workdir, config)
    text = json.dumps(config_as_json(config), indent=2) + '\n'
    write_atomically(workdir / 'config.json', text)


def _require_shared(workdir: Path) -> None:
    if not (workdir / 'config.json').exists():
        raise InputError(
            f'work directory {workdir} is not the one that the first process made; use a --workdir '
            'on a file system that all hosts share'
        )


def read_config(workdir: Path) -> ConfigDict:
    """The config that made `workdir`; fields that it did not have yet get their defaults.

    Raises:
        InputError: `workdir` is no work directory, or its config.json is not a config.
    """
    path = workdir / 'config.json'
    if not path.is_file():
        raise InputError(f'{workdir} is no work directory: it has no config.json')
    config = paper_config().lock()
    for group in OPEN_GROUPS:
        config[group].unlock()
    saved = read_json(path)
    if isinstance(saved, dict) and (unknown := _unknown_fields(saved, config)):
        raise InputError(
            f'{path} has {", ".join(unknown)}, which this version does not know; use the version '
            'that trained the run'
        )
    try:
        config.update(lists_to_tuples(saved))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f'{path} does not fit this version: {error}') from None
    return config


def _unknown_fields(saved: dict[str, Any], config: ConfigDict, prefix: str = '') -> list[str]:
    unknown = []
    for name, value in saved.items():
        if name not in config:
            if prefix.split('.')[0] not in OPEN_GROUPS:
                unknown.append(prefix + name)
        elif isinstance(value, dict) and isinstance(config[name], ConfigDict):
            unknown += _unknown_fields(value, config[name], f'{prefix}{name}.')
    return unknown


class EpochLog:
    """A file of JSON lines, one an epoch, each epoch once however often the run was stopped.

    Only the first process of several has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []

    def resume(self, steps: dict[str, int]) -> None:
        """Keeps the lines up to the step that each stage goes on from; drops the others."""
        if not hosts.is_first():
            return
        kept = []
        if self.path.exists():
            for text in self.path.read_text().splitlines():
                try:
                    line = json.loads(text)
                except json.JSONDecodeError:  # the line that was being written at a kill
                    break
                if line['step'] <= steps[line['stage']]:
                    kept.append(line)
        self.lines = kept
        write_atomically(self.path, ''.join(json.dumps(line) + '\n' for line in kept))

    def append(self, line: dict[str, Any]) -> None:
        """Adds a line and has the system write it down before the checkpoint that relies on it."""
        if not hosts.is_first():
            return
        self.lines.append(line)
        with self.path.open('a') as file:
            file.write(json.dumps(line) + '\n')
            file.flush()
            os.fsync(file.fileno())


def lists_to_tuples(value: Any) -> Any:
    """What JSON gave back, with the tuples that a config has in place of its lists."""
    if isinstance(value, dict):
        return {name: lists_to_tuples(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return tuple(lists_to_tuples(inner) for inner in value)
    return value


def _differences(found: Any, wanted: Any, prefix: str = '') -> list[tuple[str, str]]:
    """The fields that differ, each with what it was and is."""
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [(prefix, f'{prefix} was {found!r} and is now {wanted!r}')]
    fields = []
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            inner = f'{prefix}.{name}' if prefix else name
            fields += _differences(found.get(name), wanted.get(name), inner)
    return fields
