"""Which runs are averaged, which are compared, and which are kept apart."""

import json

import pytest

from metriclt_jax.reports.runs import read_runs
from metriclt_jax.reports.sections import (
    first_stage_method,
    make_sections,
    studies,
    unlike_default,
    with_first_stages,
    without_studies,
)


@pytest.fixture
def sections(tmp_path):
    """`sections()` -> the sections and problems of the runs written so far."""
    return lambda: make_sections(read_runs(tmp_path / 'runs')[0])


def titles(rows):
    return [(row.title, [run.seed for run in row.runs]) for row in rows]


def test_rows_are_methods_over_seeds(sections, make_run):
    for seed in (2, 0, 1):
        make_run(f'a{seed}', 'ce_sc_crw', seed)
    make_run('b', 'ce_crw', 5)
    (section,), problems = sections()
    assert problems == []
    assert (section.dataset, section.model, section.title) == (
        'skin7',
        'resnet50',
        'Skin7, ResNet50',
    )
    # In the paper's order, not that of the folders.
    assert titles(section.rows) == [('CE → cRW', [5]), ('CE+SC → cRW', [0, 1, 2])]


def test_data_sets_and_backbones_are_apart(sections, make_run):
    make_run('a', 'ce')
    make_run('b', 'ce', model='densenet121')
    make_run('c', 'ce', dataset='xray9')
    found, _ = sections()
    assert [section.title for section in found] == [
        'Skin7, DenseNet121',
        'Skin7, ResNet50',
        'X-ray9, ResNet50',
    ]


def test_other_settings_are_never_averaged(sections, make_run):
    make_run('a', 'ce', 0)
    make_run('b', 'ce', 1, stage1__epochs=10)
    make_run('c', 'ce', 2, stage1__epochs=10, data__split='grouped')
    found, problems = sections()
    assert problems == []
    assert sorted(section.title for section in found) == [
        'Skin7, ResNet50 (data.split=grouped, stage1.epochs=10)',
        'Skin7, ResNet50 (data.split=paper, stage1.epochs=10)',
        'Skin7, ResNet50 (data.split=paper, stage1.epochs=100)',
    ]
    assert [len(section.rows[0].runs) for section in found] == [1, 1, 1]


def test_fields_without_influence_do_not_part_runs(sections, make_run):
    make_run('a', 'ce', 0)
    make_run('b', 'ce', 1, data__data_dir='/elsewhere', figures=False, num_devices=4)
    (section,), _ = sections()
    assert titles(section.rows) == [('CE', [0, 1])]


def test_settings_of_other_methods_do_not_part_runs(sections, make_run):
    """`ce_crw` has no contrastive loss, so its coefficient is nothing to it."""
    make_run('a', 'ce_crw', 0)
    make_run('b', 'ce_crw', 1, metric__supervised_contrastive__coefficient=0.1)
    make_run('c', 'ce_sc_crw', 0)
    make_run('d', 'ce_sc_crw', 0, metric__supervised_contrastive__coefficient=0.1)
    (section,), problems = sections()
    assert problems == []
    assert titles(section.rows) == [
        ('CE → cRW', [0, 1]),
        ('CE+SC → cRW (coefficient=0.1)', [0]),
        ('CE+SC → cRW (coefficient=1.0)', [0]),
    ]


def test_studies_of_a_coefficient_are_not_in_the_tables(sections, make_run):
    field = 'metric__triplet__coefficient'
    for value in (0.01, 0.001, 0.0001):
        make_run(f'{value}', 'ce_tp_crw', **{field: value})
    make_run('margin', 'ce_tp_crw', metric__triplet__margin=20.0)
    (section,), _ = sections()
    (study,) = studies(section)
    assert [row.settings['metric.triplet.coefficient'] for row in study] == [0.0001, 0.001, 0.01]
    rows = without_studies(section.rows)
    assert [row.title for row in rows] == ['CE+TP → cRW (margin=20.0)', 'CE+TP → cRW (margin=50.0)']


def test_without_the_default_every_coefficient_is_a_row(sections, make_run):
    for value in (0.01, 0.0001):
        make_run(f'{value}', 'ce_tp_crw', metric__triplet__coefficient=value)
    (section,), _ = sections()
    assert len(without_studies(section.rows)) == 2


def test_the_default_alone_needs_no_words(sections, make_run):
    for value in (0.001, 0.0001):
        make_run(f'{value}', 'ce_tp_crw', metric__triplet__coefficient=value)
    (section,), _ = sections()
    assert titles(without_studies(section.rows)) == [('CE+TP → cRW', [0])]


def test_a_run_does_not_count_twice(sections, make_run):
    make_run('a', 'ce', 0)
    make_run('b', 'ce', 0)
    make_run('c', 'ce', 0, right=0.9)
    (section,), problems = sections()
    assert titles(section.rows) == [('CE', [0])]
    assert [(p.path, p.what) for p in problems] == [
        ('b', 'repeats a (same settings, method and seed; same numbers) and is left out'),
        ('c', 'repeats a (same settings, method and seed; other numbers) and is left out'),
    ]


def test_weights_are_told_by_their_content(sections, make_run, tmp_path):
    for name, seed, digest in (('a', 0, 'f' * 64), ('b', 1, 'f' * 64), ('c', 2, 'e' * 64)):
        make_run(name, 'ce', seed, model__pretrained=f'/{name}/weights.pth')
        path = tmp_path / f'runs/{name}/results.json'
        start = {'file': 'weights.pth', 'sha256': digest}
        path.write_text(json.dumps(json.loads(path.read_text()) | {'pretrained': start}))
    found, _ = sections()
    assert sorted(section.title for section in found) == [
        'Skin7, ResNet50 (model.pretrained=weights.pth (eeeeeeee))',
        'Skin7, ResNet50 (model.pretrained=weights.pth (ffffffff))',
    ]
    assert sorted(len(section.rows[0].runs) for section in found) == [1, 2]


def test_other_data_under_the_same_name_is_apart(sections, make_run):
    make_run('a', 'ce', 0)
    make_run('b', 'ce', 1, counts=[5000, 835, 824, 386, 245, 107, 86])
    found, _ = sections()
    assert [section.differing for section in found] == [('train_counts',)] * 2


def test_runs_without_a_config_are_apart(sections, make_run, tmp_path):
    make_run('a', 'ce', 0)
    make_run('b', 'ce', 1)
    (tmp_path / 'runs/b/config.json').unlink()
    found, _ = sections()
    assert sorted(section.title for section in found) == [
        'Skin7, ResNet50',
        'Skin7, ResNet50 (settings unknown: no config.json)',
    ]


def test_first_stages_are_rows(sections, make_run):
    made = make_run('a', 'ce_crw', 0)
    make_run('b', 'ce_sc_crw', 0)
    make_run('c', 'ce_sc', 0)
    make_run('d', 'sc_crw', 0)
    (section,), _ = sections()
    rows = with_first_stages(section.rows)
    assert [(row.method, row.stage) for row in rows] == [
        ('ce', 0),
        ('ce_crw', -1),
        ('ce_sc_crw', -1),
        ('ce_sc', -1),
        ('sc_crw', -1),
    ]
    assert rows[0].values('mcr_all') == {0: made['stages'][0]['last']['test']['mcr_all']}
    assert rows[1].values('mcr_all') == {0: made['final']['mcr_all']}
    assert rows[4].values('mcr_all', 0) == {}  # trained no classifier


def test_names_of_first_stages():
    assert first_stage_method('ce_crs') == 'ce'
    assert first_stage_method('cutmix_crw') == 'cutmix'
    assert first_stage_method('cb_focal_crw') == 'cb_focal'
    assert first_stage_method('ce_ct_crw') is None
    assert first_stage_method('unheard_of') is None


def test_what_is_unlike_the_paper(sections, make_run):
    make_run('a', 'ce', stage1__epochs=3, data__minor=2)
    (section,), _ = sections()
    assert unlike_default(section.settings) == ['stage1.epochs']


def test_rows_from_elsewhere_keep_their_name(sections, make_run):
    make_run('a', 'poly1_crw', 0)
    make_run('b', 'poly1_crw', 1, mixing__mixup__alpha=0.5)  # all settings may matter to it
    (section,), _ = sections()
    assert titles(section.rows) == [('poly1_crw (alpha=0.5)', [1]), ('poly1_crw (alpha=1.0)', [0])]
