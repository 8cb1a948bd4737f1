"""Whole reports, from made-up runs and from the paper's numbers."""

import csv
import json
import re
import tempfile
from unittest.mock import Mock

import pytest
from test_render import Tags

from metriclt_jax.errors import InputError
from metriclt_jax.reports.report import report_paper, report_runs
from metriclt_jax.reports.runs import read_runs


def report(folder, **options):
    """The files of a report on the runs written so far, by name."""
    output = folder / 'report'
    page = report_runs(folder / 'runs', output, **options)
    assert page == output / 'report.html'
    paths = [path for path in sorted(output.rglob('*')) if path.is_file()]
    return {path.relative_to(output).as_posix(): path.read_bytes() for path in paths}


def lines(files, name):
    return list(csv.DictReader(files[name].decode().splitlines()))


@pytest.fixture(scope='module')
def few_runs(tmp_path_factory):
    """A folder: two methods over two seeds, a run without predictions, and others."""
    from conftest import write_run

    folder = tmp_path_factory.mktemp('few')
    for seed in range(2):
        write_run(folder / f'runs/crw/{seed}', 'ce_crw', seed, right=0.6)
        write_run(folder / f'runs/sc/{seed}', 'ce_sc_crw', seed, right=0.9)
    write_run(folder / 'runs/old', 'rs', 0, predictions=False)
    write_run(folder / 'runs/unfinished', 'rw', 0)
    (folder / 'runs/unfinished/results.json').unlink()
    write_run(folder / 'runs/short', 'ce_crw', 0, stage1__epochs=1)
    other = {'metric__supervised_contrastive__coefficient': 0.1}
    write_run(folder / 'runs/study', 'ce_sc_crw', 0, predictions=False, **other)
    return folder


@pytest.fixture(scope='module')
def files(few_runs):
    return report(few_runs)


def test_a_report_has_every_part(few_runs, files):
    stems = ('skin7_resnet50', 'skin7_resnet50_2')
    names = ('confusion', 'features', 'loss_curves', 'recall_curves', 'reliability')
    figures = {f'figures/{stem}_{name}.png' for stem in stems for name in names}
    # The short run is alone with its own first stage: a difference without an interval.
    names = ('differences_mcr_all', 'differences_mcr_minor', 'sensitivity')
    figures |= {f'figures/skin7_resnet50_2_{name}.png' for name in names}
    texts = {'report.html', 'report.md', 'report.tex', 'results.csv', 'differences.csv'}
    assert set(files) == texts | figures
    text = files['report.md'].decode()
    assert '| unfinished | not finished' in text
    assert '| old | no predictions.npz' in text
    assert r'leave out CE \*, RS, CE+SC \*:' in text
    assert len(re.findall(r'\| \S+/results.json \|', text)) == 7
    assert '## Skin7, ResNet50 (stage1.epochs=1)' in text
    assert 'stage1.epochs=1 (default 100)' in text
    recall, study = text.split('### Sensitivity')
    assert 'coefficient=0.1' not in recall
    assert '| 0.1 | 1 |' in study
    assert 'same seeds' in text  # the single run of rs is uneven
    assert all(f']({figure})' in text for figure in figures)
    page = files['report.html'].decode()
    tags = Tags(page)
    assert sum(tag == 'img' for tag, _ in tags.elements) == len(figures)
    assert 'Skin7, ResNet50 (stage1.epochs=100)' in tags.text
    assert str(few_runs) not in page  # the same wherever it is made
    assert files['report.tex'].count(rb'\begin{table}') == page.count('<table>')


def test_numbers_are_those_of_the_results(few_runs, files):
    paths = [few_runs / f'runs/sc/{seed}/results.json' for seed in range(2)]
    recalls = [json.loads(path.read_text())['final']['mcr_all'] for path in paths]
    key = {'method': 'ce_sc_crw', 'metric': 'mcr_all', 'variant': ''}
    (found,) = (line for line in lines(files, 'results.csv') if line.items() >= key.items())
    assert float(found['mean']) == pytest.approx(50 * sum(recalls), rel=1e-5)
    assert (found['runs'], found['paper_mean']) == ('2', '86.43')
    assert f'**{50 * sum(recalls):.2f} ± ' in files['report.md'].decode()


def test_the_same_runs_give_the_same_report(tmp_path, make_run):
    make_run('0', 'ce_crw', 0)
    first = report(tmp_path)
    path = tmp_path / 'runs/0/results.json'  # a run that was killed took another time
    path.write_text(json.dumps(json.loads(path.read_text()) | {'seconds': 77.0}))
    assert report(tmp_path) == first


def test_a_table_of_the_paper(tmp_path, make_run, blank_figures):
    for method in ('ce_crw', 'ce_sc_crw', 'sc_crw', 'rs'):
        make_run(method, method, predictions=False)
    files = report(tmp_path, table=3, reference='sc_crw')
    text = files['report.md'].decode()
    own = text.split('\n## ')[2]
    rows = [line.split(' | ')[0] for line in own.splitlines() if re.match(r'\| (CE|SC)', line)]
    assert rows == ['| CE', '| CE+SC', '| CE → cRW', '| SC → cRW', '| CE+SC → cRW']
    assert re.search(r'\| SC → cRW \| - \| ✓ \| ✓ \|', own)
    assert 'first stage of another method: CE, CE+SC.' in own
    assert '| RS ' not in text
    assert '3 finished runs' in text
    methods = {line['method'] for line in lines(files, 'results.csv')}
    assert methods == {'ce', 'ce_sc', 'ce_crw', 'sc_crw', 'ce_sc_crw'}
    compared = lines(files, 'differences.csv')
    assert {line['second'] for line in compared if line['first'] == 'CE *'} >= {'SC → cRW'}
    assert '| BBN | - | - | 73.88 ± 0.35 |' in report(tmp_path, table=2)['report.md'].decode()


def test_a_section_without_differences_leaves_the_others(tmp_path, make_run, blank_figures):
    make_run('lone', 'rs', dataset='digits_lt', predictions=False)
    make_run('a', 'ce_crw')
    make_run('b', 'ce_tp_crw')
    found = lines(report(tmp_path), 'differences.csv')
    assert {line['section'] for line in found} == {'Skin7, ResNet50'}
    assert all(len(line['low']) <= 10 for line in found)  # six digits


def test_names_cannot_break_the_page(tmp_path, make_run):
    name = r'<img src=x onerror=alert(1)>|"$\_{痣'
    make_run('a', name, dataset=name, model=name, names=[name, *'bcdefg'], predictions=False)
    tags = Tags(report(tmp_path)['report.html'].decode())
    assert name in tags.text
    assert all(a['src'].startswith('data:') for tag, a in tags.elements if tag == 'img')
    assert not any('onerror' in attributes for _, attributes in tags.elements)


def test_what_cannot_be_reported_writes_nothing(tmp_path, make_run, monkeypatch):
    (tmp_path / 'runs').mkdir()
    with pytest.raises(InputError, match='no finished run'):
        report(tmp_path)
    make_run('a', 'rs')
    for option, value in (('table', 5), ('table', 7), ('reference', 'bbn')):
        with pytest.raises(InputError, match=f'{option}.* {value}'):
            report(tmp_path, **{option: value})
    (tmp_path / 'runs/a/results.json').write_text('{')
    with pytest.raises(InputError, match=r'a: results\.json'):
        report(tmp_path)
    assert not (tmp_path / 'report').exists()
    make_run('b', 'rs')
    (tmp_path / 'report').write_text('a file')
    with pytest.raises(InputError, match='output folder'):
        report(tmp_path)
    (tmp_path / 'report').unlink()
    (tmp_path / 'report').mkdir()
    monkeypatch.setattr(tempfile, 'TemporaryFile', Mock(side_effect=PermissionError(13, 'denied')))
    with pytest.raises(InputError, match='denied'):  # a folder that exists
        report(tmp_path)


def test_the_papers_own_numbers(tmp_path):
    page = report_paper(tmp_path / 'paper')
    text = (tmp_path / 'paper/report.md').read_text()
    headings = re.findall(r'^## Table (\d)', text, re.MULTILINE)
    assert headings == ['2', '3', '4', '5']
    assert text.count('**') == 2 * 9
    assert text.count('<ins>') == 9
    assert 'by value it is 52.87 (CutMix → cRW)' in Tags(page.read_text()).text
    with (tmp_path / 'paper/results.csv').open() as file:
        values = list(csv.DictReader(file))
    assert len(values) == 299
    second = [v for v in values if v['mark_by_value'] == 'underline']
    assert len(second) == 9
    # What the page says is all: elsewhere the paper marks the second best by value, or none.
    marked = {(v['table'], v['dataset']) for v in values if v['mark_in_paper']}
    unlike = [v for v in second if not v['mark_in_paper'] and (v['table'], v['dataset']) in marked]
    assert [(v['dataset'], v['method']) for v in unlike] == [('xray9', 'cutmix_crw')]


def test_a_test_part_that_lacks_classes(tmp_path, make_run):
    for method in ('ce_crw', 'ce_tp_crw'):
        made = make_run(method, method, sizes=(60, 30, 30, 20, 15, 0, 0))
    assert made['final']['classes_without_images'] == ['VASC', 'DF']
    path = tmp_path / 'runs/ce_crw/metrics.jsonl'
    line = json.loads(path.read_text().splitlines()[0])
    line['validation'] |= {'mcr_minor': None, 'classes_without_images': ['DF']}
    path.write_text(json.dumps(line) + '\n')
    files = report(tmp_path)
    page = Tags(files['report.html'].decode()).text
    assert 'no image of VASC, DF' in page
    assert 'cannot be used' not in page
    found = {(line['method'], line['metric']) for line in lines(files, 'results.csv')}
    assert ('ce_crw', 'mcr_all') in found
    assert not {metric for _, metric in found} & {'mcr_minor', 'recall VASC', 'recall DF'}
    path = tmp_path / 'runs/ce_crw/results.json'
    text = path.read_text().replace('"classes_without_images": ["VASC", "DF"]', '"x": 1')
    path.write_text(text)  # claims to be complete
    (run,), (problem,) = read_runs(tmp_path / 'runs')
    assert (run.path, problem[0]) == ('ce_tp_crw', 'ce_crw')
