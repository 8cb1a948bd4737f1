"""Which runs are averaged, which are compared, and which are kept apart."""

import json

import pytest

from metriclt_jax.reports.sections import first_stage_method, studies, unlike_default

SC, TP = 'metric__supervised_contrastive__coefficient', 'metric__triplet__coefficient'
SKIN7, SHORT = 'Skin7, ResNet50', {'stage1__epochs': 10}
# The runs (method, seed, fields) -> the rows of each section, with their seeds.
CASES = {
    'rows are methods over seeds, in the order of the paper': (
        [('ce_sc_crw', 2, {}), ('ce_sc_crw', 0, {}), ('ce_crw', 5, {})],
        {SKIN7: {'CE → cRW': (5,), 'CE+SC → cRW': (0, 2)}},
    ),
    'data sets and backbones are apart': (
        [('ce', 0, {}), ('ce', 0, {'model': 'densenet121'}), ('ce', 0, {'dataset': 'xray9'})],
        {title: {'CE': (0,)} for title in ('Skin7, DenseNet121', SKIN7, 'X-ray9, ResNet50')},
    ),
    'other settings are never averaged': (
        [('ce', 0, {}), ('ce', 1, SHORT), ('ce', 2, SHORT | {'data__split': 'grouped'})],
        {
            f'{SKIN7} (data.split=grouped, stage1.epochs=10)': {'CE': (2,)},
            f'{SKIN7} (data.split=paper, stage1.epochs=10)': {'CE': (1,)},
            f'{SKIN7} (data.split=paper, stage1.epochs=100)': {'CE': (0,)},
        },
    ),
    'fields without influence do not part runs': (
        [('ce', 0, {}), ('ce', 1, {'data__data_dir': '/elsewhere', 'num_devices': 4})],
        {SKIN7: {'CE': (0, 1)}},
    ),
    'settings of other methods do not part runs': (
        [('ce_crw', 0, {}), ('ce_crw', 1, {SC: 0.1}), ('ce_sc_crw', 0, {}), ('rs', 0, {SC: 2.0})],
        {SKIN7: {'CE → cRW': (0, 1), 'RS': (0,), 'CE+SC → cRW': (0,)}},
    ),
    'other data under the same name is apart': (
        [('ce', 0, {}), ('ce', 1, {'groups': {'major': [0]}})],
        {
            f"{SKIN7} (groups={{'major': [0, 1, 2], 'minor': [5, 6]}})": {'CE': (0,)},
            f"{SKIN7} (groups={{'major': [0]}})": {'CE': (1,)},
        },
    ),
    'studies of a coefficient are not in the tables': (
        [('ce_tp_crw', 0, {TP: value}) for value in (0.01, 0.001, 0.0001)],
        {SKIN7: {'CE+TP → cRW': (0,)}},
    ),
    'without the default every coefficient is a row': (
        [('ce_tp_crw', 0, {TP: value}) for value in (0.01, 0.0001)],
        {SKIN7: {f'CE+TP → cRW (coefficient={value})': (0,) for value in (0.0001, 0.01)}},
    ),
    'all settings may matter to an unknown method': (
        [('poly1_crw', 0, {}), ('poly1_crw', 1, {'mixing__mixup__alpha': 0.5})],
        {SKIN7: {'poly1_crw (alpha=0.5)': (1,), 'poly1_crw (alpha=1.0)': (0,)}},
    ),
}


@pytest.mark.parametrize('case', CASES)
def test_what_is_averaged_and_compared(sections, make_run, case):
    runs, expected = CASES[case]
    for place, (method, seed, fields) in enumerate(runs):
        make_run(str(place), method, seed, **fields)
    found, problems = sections()
    assert problems == []
    rows = {
        section.title: {row.title: row.seeds for row in section.main_rows if row.stage == 'last'}
        for section in found
    }
    assert rows == expected
    assert all(list(rows[title]) == list(expected[title]) for title in rows)  # in the same order


def test_studies(section, make_run):
    for value in (0.01, 0.001, 0.0001):
        make_run(f'{value}', 'ce_tp_crw', **{TP: value})
    make_run('margin', 'ce_tp_crw', metric__triplet__margin=20.0)
    (study,) = studies(section().rows)
    assert [row.coefficient for row in study] == [0.0001, 0.001, 0.01]
    assert [row.in_tables for row in study] == [False, True, False]
    titles = [row.title for row in section().main_rows]
    assert titles == ['CE+TP → cRW (margin=20.0)', 'CE+TP → cRW (margin=50.0)']


def test_a_run_does_not_count_twice(sections, make_run):
    for path, right in (('a', 0.7), ('b', 0.7), ('c', 0.9)):
        make_run(path, 'ce', 0, right=right)
    (section,), problems = sections()
    assert [run.path for run in section.rows[0].runs] == ['a']
    assert [path for path, _ in problems] == ['b', 'c']
    assert 'same numbers' in problems[0][1]
    assert 'other numbers' in problems[1][1]


def test_weights_are_told_by_their_content(sections, make_run, tmp_path):
    for name, seed, digest in (('a', 0, 'f' * 64), ('b', 1, 'f' * 64), ('c', 2, 'e' * 64)):
        make_run(name, 'ce', seed, model__pretrained=f'/{name}/weights.pth')
        path = tmp_path / f'runs/{name}/results.json'
        start = {'file': 'weights.pth', 'sha256': digest}
        path.write_text(json.dumps(json.loads(path.read_text()) | {'pretrained': start}))
    found = {section.title: section.rows[0].seeds for section in sections()[0]}
    assert found == {
        f'{SKIN7} (model.pretrained=weights.pth (eeeeeeee))': (2,),
        f'{SKIN7} (model.pretrained=weights.pth (ffffffff))': (0, 1),
    }


def test_runs_without_a_config_are_apart(sections, make_run, tmp_path):
    for path in 'ab':
        make_run(path, 'ce')
    (tmp_path / 'runs/b/config.json').unlink()
    titles = {section.title for section in sections()[0]}
    assert titles == {SKIN7, f'{SKIN7} (settings unknown: no config.json)'}


def test_first_stages_are_rows(section, make_run):
    for method in ('ce_crw', 'ce_sc_crw', 'sc_crw', 'rs'):
        make_run(method, method, 0)
    titles = [row.title for row in section().main_rows]
    assert titles == ['CE *', 'CE → cRW', 'RS', 'CE+SC → cRW', 'CE+SC *', 'SC → cRW']
    some = section().with_methods(['ce_sc', 'rs', 'ce'])
    assert [row.title for row in some.main_rows] == ['CE+SC *', 'RS', 'CE *']
    make_run('ce', 'ce', 0)
    assert section().main_rows[0].title == 'CE'


def test_names_of_first_stages():
    names = map(first_stage_method, ['ce_crs', 'cb_focal_crw', 'ce_ct_crw', 'unheard_of'])
    assert list(names) == ['ce', 'cb_focal', None, None]


def test_what_is_unlike_the_paper(section, make_run):
    make_run('a', 'ce', stage1__epochs=3, data__minor=2)
    assert unlike_default(section().settings) == {'stage1.epochs': (3, 100)}
