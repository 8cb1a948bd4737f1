import errno
import json
import os

import pytest

from metriclt_jax.config import paper_config
from metriclt_jax.errors import InputError, NotWritten
from metriclt_jax.paths import to_path
from metriclt_jax.training.workdir import (
    EpochLog,
    claim,
    is_made_by,
    read_config,
)


def hold(workdir, config):
    with claim(workdir, config):
        pass


def test_claim_writes_the_config_and_knows_it_again(tmp_path):
    config = paper_config()
    assert not is_made_by(tmp_path / 'run', config)
    hold(tmp_path / 'run', config)
    assert is_made_by(tmp_path / 'run', config)
    hold(tmp_path / 'run', config)
    assert read_config(tmp_path / 'run').to_dict() == config.to_dict()


def test_another_config_is_refused_by_field(tmp_path):
    config = paper_config()
    hold(tmp_path, config)
    config.stage1.epochs = 7
    config.data.split = 'grouped'
    with pytest.raises(InputError, match=r"data.split was 'paper' and is now 'grouped'.*epochs"):
        hold(tmp_path, config)
    assert json.loads((tmp_path / 'config.json').read_text())['stage1']['epochs'] == 100


def test_fields_without_influence_may_change(tmp_path):
    config = paper_config()
    hold(tmp_path, config)
    config.data.data_dir = '/moved'
    config.figures = False
    hold(tmp_path, config)
    assert read_config(tmp_path).data.data_dir == '/moved'


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('precious')
    with pytest.raises(InputError, match=r'no config\.json'):
        is_made_by(tmp_path, paper_config())


def test_a_run_killed_before_its_config_was_complete_starts_again(tmp_path):
    (tmp_path / '.config.json.123').write_text('{"half')
    (tmp_path / '.lock').touch()
    hold(tmp_path, paper_config())
    assert is_made_by(tmp_path, paper_config())


def test_one_process_at_a_time(tmp_path):
    with (
        claim(tmp_path, paper_config()),
        pytest.raises(InputError, match=r'another process is training in'),
    ):
        hold(tmp_path, paper_config())
    hold(tmp_path, paper_config())


def test_a_work_directory_that_cannot_be(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(InputError, match=r'cannot be written'):
        hold(tmp_path / 'file' / 'run', paper_config())


@pytest.mark.parametrize('name', ['lr [0.1]', 'run*', 'a?', 'C:\\runs'])
def test_a_path_that_checkpoints_take_for_a_pattern_is_refused(name, tmp_path):
    with pytest.raises(InputError, match=r'patterns'):
        hold(tmp_path / name / 'run', paper_config())


def test_read_config_needs_a_work_directory_with_a_config(tmp_path):
    with pytest.raises(InputError, match=r'not a work directory'):
        read_config(tmp_path)
    (tmp_path / 'config.json').write_text('{"half')
    with pytest.raises(InputError, match=r'cannot be read as JSON'):
        read_config(tmp_path)
    (tmp_path / 'config.json').write_text('{"colour": "red"}')
    with pytest.raises(InputError, match=r'does not fit this version.*colour'):
        read_config(tmp_path)


def test_fields_that_an_older_config_lacks_get_their_defaults(tmp_path):
    config = paper_config()
    hold(tmp_path, config)
    stored = json.loads((tmp_path / 'config.json').read_text())
    del stored['metric']['triplet']['squared']
    (tmp_path / 'config.json').write_text(json.dumps(stored))
    assert read_config(tmp_path).metric.triplet.squared is False


def test_a_run_goes_on_under_a_version_with_more_fields(tmp_path):
    hold(tmp_path, paper_config())
    path = tmp_path / 'config.json'
    older = json.loads(path.read_text())
    del older['model']['pretrained']
    path.write_text(json.dumps(older))
    assert is_made_by(tmp_path, paper_config())
    config = paper_config()
    config.model.pretrained = 'weights.safetensors'
    with pytest.raises(InputError, match=r'model\.pretrained'):
        is_made_by(tmp_path, config)


def test_fields_of_another_version_are_named(tmp_path):
    hold(tmp_path, paper_config())
    path = tmp_path / 'config.json'
    newer = json.loads(path.read_text())
    newer['stage1']['sharpness'] = 1
    newer['extra'] = {'a': 1}
    path.write_text(json.dumps(newer))
    with pytest.raises(InputError, match=r'does not fit this version'):
        read_config(tmp_path)


def test_a_config_file_may_add_fields_for_losses_of_its_own(tmp_path):
    config = paper_config()
    config.metric.mine = {'coefficient': 0.1}
    hold(tmp_path, config.lock())
    assert is_made_by(tmp_path, config)
    assert read_config(tmp_path).metric.mine.coefficient == 0.1


def test_log_keeps_what_a_resumed_run_does_not_repeat(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    log = EpochLog(path)
    log.resume({'stage1': 0})
    for stage, step in [('stage1', 5), ('stage1', 10), ('stage2', 5), ('stage2', 10)]:
        log.append({'stage': stage, 'step': step})
    with path.open('a') as file:
        file.write('{"stage": "stage2", "st')  # a kill while writing

    resumed = EpochLog(path)
    resumed.resume({'stage1': 10, 'stage2': 5})
    expected = [('stage1', 5), ('stage1', 10), ('stage2', 5)]
    assert [(line['stage'], line['step']) for line in resumed.lines] == expected
    assert [json.loads(text) for text in path.read_text().splitlines()] == resumed.lines


def test_a_log_on_a_full_disk(tmp_path, monkeypatch):
    log = EpochLog(tmp_path / 'metrics.jsonl')
    log.resume({'stage1': 0})
    log.append({'stage': 'stage1', 'step': 5})

    def fsync(number):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(NotWritten, match=r'metrics\.jsonl .*quota'):
        log.append({'stage': 'stage1', 'step': 10})


@pytest.mark.parametrize('address', ['s3://bucket/run', 'gs:/bucket/run', 'gs:///run', 'gs://a/*'])
def test_other_addresses_than_those_of_a_bucket_are_refused(address):
    with pytest.raises(InputError, match='gs://BUCKET/FOLDER'):
        to_path(address)
