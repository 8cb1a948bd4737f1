"""`prepare_data.py --dataset=NAME --source=DIR [--data_dir=DIR]`: checks files, writes records."""

from absl import flags

from metriclt_jax.cli import main as cli
from metriclt_jax.data import records

_DATASET = flags.DEFINE_enum('dataset', None, records.names(), 'data set to prepare')
_SOURCE = flags.DEFINE_string('source', None, 'folder with the original files; not for digits_lt')
_DATA_DIR = flags.DEFINE_string('data_dir', '~/metriclt_data', 'where prepared data sets lie')
flags.mark_flag_as_required('dataset')


def prepare_data() -> None:
    """Prepares what the flags say; prints where it is."""
    name = _DATASET.value
    already = records.is_prepared(name, _DATA_DIR.value)
    path = records.prepare(name, _SOURCE.value, _DATA_DIR.value)
    if already:
        print(f'{name} was already prepared in {path}; delete that folder to prepare it again')
    else:
        print(f'{name} is prepared in {path}')


def main() -> None:
    """Entry point."""
    cli.run(prepare_data)


if __name__ == '__main__':
    main()
