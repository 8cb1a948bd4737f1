"""Which runs are averaged, which are compared, and which are kept apart."""

import json

from metriclt_jax.reports.sections import first_stage_method, unlike_default


def titles(rows):
    """Title and seeds of the rows that were run on their own."""
    rows = [row for row in rows if row.stage == 'last']
    return [(row.title, [run.results['seed'] for run in row.runs]) for row in rows]


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
    assert titles(section.main_rows) == [('CE → cRW', [5]), ('CE+SC → cRW', [0, 1, 2])]


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
    assert titles(section.main_rows) == [('CE', [0, 1])]


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
        ('CE+SC → cRW', [0]),
        ('CE+SC → cRW (coefficient=0.1)', [0]),
    ]


def test_studies_of_a_coefficient_are_not_in_the_tables(section, make_run):
    field = 'metric__triplet__coefficient'
    for value in (0.01, 0.001, 0.0001):
        make_run(f'{value}', 'ce_tp_crw', **{field: value})
    make_run('margin', 'ce_tp_crw', metric__triplet__margin=20.0)
    (study,) = section().studies
    assert [row.coefficient for row in study] == [0.0001, 0.001, 0.01]
    assert [row.title for row in section().main_rows] == [
        'CE+TP → cRW (margin=20.0)',
        'CE+TP → cRW (margin=50.0)',
    ]
    assert len(section().rows) == 4


def test_without_the_default_every_coefficient_is_a_row(section, make_run):
    for value in (0.01, 0.0001):
        make_run(f'{value}', 'ce_tp_crw', metric__triplet__coefficient=value)
    assert len(section().main_rows) == 2


def test_the_default_alone_needs_no_words(section, make_run):
    for value in (0.001, 0.0001):
        make_run(f'{value}', 'ce_tp_crw', metric__triplet__coefficient=value)
    assert titles(section().main_rows) == [('CE+TP → cRW', [0])]
    extra = [row.title for row in section().rows if not row.in_tables]
    assert extra == ['CE+TP → cRW (coefficient=0.0001)']


def test_a_run_does_not_count_twice(sections, make_run):
    make_run('a', 'ce', 0)
    make_run('b', 'ce', 0)
    make_run('c', 'ce', 0, right=0.9)
    (section,), problems = sections()
    assert titles(section.main_rows) == [('CE', [0])]
    assert [problem.path for problem in problems] == ['b', 'c']
    assert 'same numbers' in problems[0].what
    assert 'other numbers' in problems[1].what


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
    assert [section.differing for section in found] == [['train_counts']] * 2
    make_run('c', 'ce', 0, stage1__epochs=1)
    titles = {section.title for section in sections()[0]}
    assert len(titles) == 3


def test_runs_without_a_config_are_apart(sections, make_run, tmp_path):
    make_run('a', 'ce', 0)
    make_run('b', 'ce', 1)
    (tmp_path / 'runs/b/config.json').unlink()
    found, _ = sections()
    assert sorted(section.title for section in found) == [
        'Skin7, ResNet50',
        'Skin7, ResNet50 (settings unknown: no config.json)',
    ]


def test_first_stages_are_rows(section, make_run):
    for method in ('ce_crw', 'ce_sc_crw', 'ce_sc', 'sc_crw'):
        make_run(method, method, 0)
    assert [(row.method, row.stage) for row in section().main_rows] == [
        ('ce', '1'),
        ('ce_crw', 'last'),
        ('ce_sc_crw', 'last'),
        ('ce_sc', 'last'),
        ('sc_crw', 'last'),
    ]


def test_rows_of_some_methods(section, make_run):
    for method in ('ce_crw', 'ce_sc_crw', 'rs'):
        make_run(method, method, 0)
    some = section().with_methods(['ce_sc', 'rs', 'ce'])
    assert [row.title for row in some.main_rows] == ['CE+SC *', 'RS', 'CE *']


def test_names_of_first_stages():
    assert first_stage_method('ce_crs') == 'ce'
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
    assert titles(section.main_rows) == [
        ('poly1_crw (alpha=0.5)', [1]),
        ('poly1_crw (alpha=1.0)', [0]),
    ]
