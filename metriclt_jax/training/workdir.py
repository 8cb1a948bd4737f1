"""The work directory of a run: what is in it, and what a later run may trust."""

import json
import os
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from metriclt_jax.errors import InputError


def write_atomically(path: Path, text: str) -> None:
    """Writes a file such that a reader sees the old text or the new one, never a part."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    temporary.write_text(text)
    temporary.replace(path)


def config_as_json(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON gives it back: tuples become lists."""
    return json.loads(json.dumps(config.to_dict()))


def claim(workdir: Path, config: ConfigDict) -> None:
    """Makes `workdir` the work directory of `config`, or finds that it already is.

    Raises:
        InputError: it belongs to another config, or is a directory of something else.
    """
    path = workdir / 'config.json'
    wanted = config_as_json(config)
    if path.exists():
        try:
            found = json.loads(path.read_text())
        except json.JSONDecodeError:
            raise InputError(
                f'{path} is not readable as JSON; use another --workdir or delete this one'
            ) from None
        if found != wanted:
            fields = _differences(found, wanted)
            raise InputError(
                f'work directory {workdir} was made by another config ({"; ".join(fields)}); '
                'use another --workdir, or the config that made this one'
            )
        return
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise InputError(
            f'work directory {workdir} exists and has no config.json; use one that is new, empty '
            'or made by an earlier run'
        )
    workdir.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(wanted, indent=2) + '\n')


def read_config(workdir: Path) -> ConfigDict:
    """The config that made `workdir`; raises `InputError` where there is none."""
    path = workdir / 'config.json'
    if not path.is_file():
        raise InputError(f'{workdir} is no work directory: it has no config.json')
    return ConfigDict(_lists_to_tuples(json.loads(path.read_text()))).lock()


class MetricsLog:
    """`metrics.jsonl`: one line an epoch, the same bytes however often the run was interrupted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[dict[str, Any]] = []

    def resume(self, steps: dict[str, int]) -> None:
        """Keeps the lines up to the step that each stage goes on from; drops the others."""
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
        self.lines.append(line)
        with self.path.open('a') as file:
            file.write(json.dumps(line) + '\n')
            file.flush()
            os.fsync(file.fileno())


def _lists_to_tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lists_to_tuples(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return tuple(_lists_to_tuples(inner) for inner in value)
    return value


def _differences(found: Any, wanted: Any, prefix: str = '') -> list[str]:
    if not (isinstance(found, dict) and isinstance(wanted, dict)):
        return [f'{prefix} was {found!r} and is now {wanted!r}']
    fields = []
    for name in sorted(set(found) | set(wanted)):
        if found.get(name) != wanted.get(name):
            inner = f'{prefix}.{name}' if prefix else name
            fields += _differences(found.get(name), wanted.get(name), inner)
    return fields
