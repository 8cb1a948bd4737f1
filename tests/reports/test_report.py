"""Whole reports, from made-up runs and from the paper's numbers."""

import csv
import json
import re

import pytest
from test_document import Tags

from metriclt_jax.errors import InputError
from metriclt_jax.reports.report import report_paper, report_runs


def silent(text):
    pass


def report(tmp_path, **options):
    """The files of a report on the runs written so far, by name."""
    output = tmp_path / 'report'
    page = report_runs(tmp_path / 'runs', output, progress=silent, **options)
    assert page == output / 'report.html'
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob('*'))
        if path.is_file()
    }


def lines(files, name):
    return list(csv.DictReader(files[name].decode().splitlines()))


@pytest.fixture
def few_runs(make_run):
    """Two methods over two seeds, one of them without predictions, and two unusable folders."""
    for seed in range(2):
        make_run(f'crw/{seed}', 'ce_crw', seed, right=0.6)
        make_run(f'sc/{seed}', 'ce_sc_crw', seed, right=0.9)
    make_run('old', 'rs', 0, predictions=False)
    make_run('unfinished', 'rw', 0)
    make_run('short', 'ce_crw', 0, stage1__epochs=1)


@pytest.mark.slow
def test_a_report_says_what_is_uneven(tmp_path, make_run):
    uneven = 'Not all rows have the same seeds'
    read_off = 'Not run by itself, but the first stage of another row: CE.'
    make_run('crw/0', 'ce_crw', 0, right=0.6)
    make_run('rs/0', 'rs', 0)
    text = report(tmp_path, table=2)['report.md'].decode()
    assert uneven not in text
    assert read_off in text
    make_run('rs/1', 'rs', 1)
    make_run('ce/0', 'ce', 0)
    text = report(tmp_path, table=2)['report.md'].decode()
    assert uneven in text
    assert read_off not in text


@pytest.mark.slow
def test_a_report_has_every_part(tmp_path, few_runs):
    (tmp_path / 'runs/unfinished/results.json').unlink()
    files = report(tmp_path)
    stems = ('skin7_resnet50', 'skin7_resnet50_2')
    names = ('confusion', 'features', 'loss_curves', 'recall_curves', 'reliability')
    figures = {f'figures/{stem}_{name}.png' for stem in stems for name in names}
    # The short run is alone with its own first stage: a difference without an interval.
    groups = ('all', 'minor')
    figures |= {f'figures/skin7_resnet50_2_differences_mcr_{group}.png' for group in groups}
    texts = {'report.html', 'report.md', 'report.tex', 'results.csv', 'differences.csv'}
    assert set(files) == texts | figures
    text = files['report.md'].decode()
    assert r'unfinished | not finished: no results.json yet' in text
    assert r'| old | no predictions.npz; calibration, bootstrap and t-SNE go without' in text
    assert 'Calibration goes without CE \\*, RS, CE+SC \\*: no run kept' in text
    for path in ('crw/0', 'crw/1', 'sc/0', 'sc/1', 'old', 'short'):
        assert f'| {path}/results.json |' in text
    assert 'unfinished/results.json' not in text
    assert '## Skin7, ResNet50 (stage1.epochs=1)' in text
    assert 'which differ in: stage1.epochs' in text
    assert 'stage1.epochs=1 (default 100)' in text
    page = files['report.html'].decode()
    assert page.count('<img ') == len(figures)
    assert 'Skin7, ResNet50 (stage1.epochs=100)' in Tags(page).text
    assert str(tmp_path) not in page  # the same wherever it is made


@pytest.mark.slow
def test_numbers_are_those_of_the_results(tmp_path, few_runs):
    files = report(tmp_path)
    recalls = [
        json.loads((tmp_path / f'runs/sc/{seed}/results.json').read_text())['final']['mcr_all']
        for seed in range(2)
    ]
    (found,) = (
        line
        for line in lines(files, 'results.csv')
        if (line['method'], line['metric']) == ('ce_sc_crw', 'mcr_all')
    )
    assert float(found['mean']) == pytest.approx(50 * sum(recalls), rel=1e-5)
    assert (found['runs'], found['paper_mean']) == ('2', '86.43')
    printed = f'**{50 * sum(recalls):.2f} ± '
    assert printed in files['report.md'].decode()
    (difference,) = (
        line
        for line in lines(files, 'differences.csv')
        if (line['first'], line['second']) == ('CE+SC → cRW', 'CE → cRW')
        and line['metric'] == 'mcr_all'
        and line['section'].endswith('=100)')
    )
    assert float(difference['images_low']) > 0


@pytest.mark.slow
def test_the_same_runs_give_the_same_report(tmp_path, make_run):
    for seed in range(2):
        make_run(f'{seed}', 'ce_crw', seed)
    first = report(tmp_path)
    for seed in range(2):  # a run that was killed and went on took another time
        path = tmp_path / f'runs/{seed}/results.json'
        path.write_text(json.dumps(json.loads(path.read_text()) | {'seconds': 77.0}))
    assert report(tmp_path) == first


@pytest.mark.slow
def test_a_table_of_the_paper(tmp_path, few_runs, make_run):
    make_run('sc_crw', 'sc_crw', 0)
    files = report(tmp_path, table=3)
    text = files['report.md'].decode()
    assert text.startswith('# Table 3: results beside the paper')
    own, section = text.split('\n## ')[2:4]
    assert own.startswith('Table 3')
    methods = ('CE', 'CE+SC', 'CE → cRW', 'SC → cRW', 'CE+SC → cRW')
    rows = [line for line in own.splitlines() if line.startswith('| C') or line.startswith('| S')]
    assert [row.split(' | ')[0].strip('| ') for row in rows] == list(methods)
    assert re.search(r'\| SC → cRW \| - \| ✓ \| ✓ \|', own)
    assert '| RS ' not in text
    assert '| old/results.json' not in text
    assert '6 finished runs' in text
    assert {line['method'] for line in lines(files, 'results.csv')} == {
        'ce', 'ce_sc', 'ce_crw', 'sc_crw', 'ce_sc_crw'
    }  # fmt: skip
    assert section


def test_methods_of_the_table_that_were_not_run_are_shown(tmp_path, make_run):
    make_run('a', 'ce_crw')
    text = report(tmp_path, table=2)['report.md'].decode()
    assert '| BBN | - | - | 73.88 ± 0.35 |' in text


def test_studies_are_drawn_and_not_in_the_table(tmp_path, make_run):
    make_run('crw', 'ce_crw')
    for value in (0.1, 1.0):
        make_run(f'{value}', 'ce_sc_crw', metric__supervised_contrastive__coefficient=value)
    files = report(tmp_path)
    assert 'figures/skin7_resnet50_sensitivity.png' in files
    text = files['report.md'].decode()
    recall, study = text.split('### Mean class recall')[1].split('### Sensitivity')
    assert 'coefficient=0.1' not in recall
    assert '| 0.1 | 1 |' in study
    variants = {line['variant'] for line in lines(files, 'results.csv')}
    assert variants == {'', 'coefficient=0.1'}


def test_names_cannot_break_the_page(tmp_path, make_run):
    name = '<img src=x onerror=alert(1)>|"'
    make_run(name.replace('/', ''), name, dataset=name, model=name, names=[name, *'bcdefg'])
    files = report(tmp_path)
    tags = Tags(files['report.html'].decode())
    assert name in tags.text
    assert all(a['src'].startswith('data:') for tag, a in tags.elements if tag == 'img')
    assert not any('onerror' in attributes for _, attributes in tags.elements)


@pytest.mark.slow
def test_the_reference_can_be_chosen(tmp_path, few_runs):
    files = report(tmp_path, reference='rs')
    second = {line['second'] for line in lines(files, 'differences.csv') if line['first'] == 'CE *'}
    assert second >= {'RS'}
    with pytest.raises(InputError, match='reference method is bbn; allowed: one that was run: '):
        report(tmp_path, reference='bbn')


def test_what_cannot_be_reported_writes_nothing(tmp_path, make_run):
    (tmp_path / 'runs').mkdir()
    with pytest.raises(InputError, match=r'no finished run in .*: it needs a results.json'):
        report(tmp_path)
    make_run('a', 'rs')
    with pytest.raises(InputError, match=r'no run in .* is of a method of table 5'):
        report(tmp_path, table=5)
    with pytest.raises(InputError, match='table is 7; allowed: 2, 3, 4, 5'):
        report(tmp_path, table=7)
    (tmp_path / 'runs/a/results.json').write_text('{')
    with pytest.raises(InputError, match=r'\(a: results.json cannot be read'):
        report(tmp_path)
    assert not (tmp_path / 'report').exists()


def test_an_output_that_is_a_file_is_refused(tmp_path, make_run):
    make_run('a', 'rs')
    (tmp_path / 'report').write_text('')
    with pytest.raises(InputError, match=r'output folder .* cannot be made'):
        report(tmp_path)


def test_the_papers_own_numbers(tmp_path):
    page = report_paper(tmp_path / 'paper')
    text = (tmp_path / 'paper/report.md').read_text()
    assert [line for line in text.splitlines() if line.startswith('## ')] == [
        '## Table 2. Comparison with various baselines on three medical image data sets.',
        '## Table 3. Ablation study on Skin7 and X-ray9.',
        '## Table 4. Performance on Skin7 with DenseNet121 and MobileNetV2 backbones.',
        '## Table 5. Performance on two natural image data sets.',
    ]
    assert text.count('**') == 2 * 9
    assert text.count('<ins>') == 9
    sentence = (
        'X-ray9, ResNet50: the paper underlines 52.77 (CE+SC → cRW) as the second best; by value '
        'it is 52.87 (CutMix → cRW).'
    )
    assert sentence in Tags(page.read_text()).text
    with (tmp_path / 'paper/results.csv').open() as file:
        values = list(csv.DictReader(file))
    assert len(values) == 299
    unlike = [
        (v['dataset'], v['method'], v['mark_in_paper'], v['mark_by_value'])
        for v in values
        if v['table'] == '2'
        and (v['mark_in_paper'] == 'underline') != (v['mark_by_value'] == 'underline')
    ]
    assert unlike == [
        ('xray9', 'cutmix_crw', '', 'underline'),
        ('xray9', 'ce_sc_crw', 'underline', ''),
    ]
