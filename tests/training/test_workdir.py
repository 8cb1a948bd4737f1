import json

import pytest

from metriclt_jax.config import paper_config
from metriclt_jax.errors import InputError
from metriclt_jax.training.workdir import MetricsLog, claim, read_config, write_atomically


def test_claim_writes_the_config_and_knows_it_again(tmp_path):
    config = paper_config()
    claim(tmp_path / 'run', config)
    claim(tmp_path / 'run', config)
    assert read_config(tmp_path / 'run').data.fractions == (0.75, 0.05, 0.2)


def test_another_config_is_refused_by_field(tmp_path):
    config = paper_config()
    claim(tmp_path, config)
    config.stage1.epochs = 7
    config.data.split = 'grouped'
    with pytest.raises(InputError, match=r"data.split was 'paper' and is now 'grouped'.*epochs"):
        claim(tmp_path, config)
    assert json.loads((tmp_path / 'config.json').read_text())['stage1']['epochs'] == 100


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / 'thesis.tex').write_text('precious')
    with pytest.raises(InputError, match=r'no config\.json'):
        claim(tmp_path, paper_config())
    assert [path.name for path in tmp_path.iterdir()] == ['thesis.tex']


def test_read_config_needs_a_work_directory(tmp_path):
    with pytest.raises(InputError, match=r'no work directory'):
        read_config(tmp_path)


def test_log_keeps_what_a_resumed_run_does_not_repeat(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    log = MetricsLog(path)
    log.resume({'stage1': 0})
    for stage, step in [('stage1', 5), ('stage1', 10), ('stage2', 5), ('stage2', 10)]:
        log.append({'stage': stage, 'step': step})
    with path.open('a') as file:
        file.write('{"stage": "stage2", "st')  # a kill while writing

    resumed = MetricsLog(path)
    resumed.resume({'stage1': 10, 'stage2': 5})
    expected = [('stage1', 5), ('stage1', 10), ('stage2', 5)]
    assert [(line['stage'], line['step']) for line in resumed.lines] == expected
    assert [json.loads(text) for text in path.read_text().splitlines()] == resumed.lines


def test_write_atomically_leaves_no_temporary_file(tmp_path):
    write_atomically(tmp_path / 'a.json', 'one')
    write_atomically(tmp_path / 'a.json', 'two')
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']
    assert (tmp_path / 'a.json').read_text() == 'two'
