"""The config files: those of the user, and those that travel with the package."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from metriclt_jax.errors import InputError

_HERE = Path(__file__).parent
# `configs/` of the repository, which a wheel has inside the package.
SHIPPED = folder if (folder := _HERE / 'configs').is_dir() else _HERE.parent / 'configs'


def find(name: str, folder: Path | None = None) -> Path:
    """The config file `name`, with or without its suffix; with `folder`, one of its files.

    A file of the user comes first: at that path, then in their `configs/`, then the shipped one.
    """
    file = Path(name if name.endswith('.py') else f'{name}.py').expanduser()
    folders = (Path(), Path('configs'), SHIPPED) if folder is None else (folder,)
    places = [place / file for place in folders]
    if folder is None and file.parent == Path('configs'):
        places.append(SHIPPED / file.name)
    for place in places:
        if place.is_file():
            return place
    known = sorted({path.stem for f in folders[-2:] for path in f.glob('[!_]*.py')})
    raise InputError(
        f'there is no config file {file if folder is None else folder / file} (seen from '
        f'{Path.cwd()}); use the path of a file, or one of {", ".join(known) or "(none)"}'
    )


def load(path: Path) -> ModuleType:
    """Runs a config file, which may add methods and losses."""
    spec = importlib.util.spec_from_file_location(f'metriclt_jax_config_{path.stem}', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
