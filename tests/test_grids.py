"""Which runs a table or a figure asks for."""

import itertools
from pathlib import Path

import pytest

from metriclt_jax.errors import InputError
from metriclt_jax.grids import SENSITIVITY, config_maker, figure_grid, parse_methods, table_grid
from metriclt_jax.methods import METHODS
from metriclt_jax.reports.published import STABLE_COEFFICIENTS

CONFIGS = Path(__file__).parents[1] / 'configs'


def names(runs):
    return [run.name for run in runs]


def test_table_2_has_21_rows_and_14_first_stages():
    runs = table_grid(config_maker(CONFIGS, 'digits_lt'), 2, seeds=1)
    assert len(runs) == 21
    side_by_side = [stage for stage, _ in itertools.groupby(run.first_stage for run in runs)]
    assert len(side_by_side) == len(set(side_by_side)) == 14
    assert names(runs)[:3] == ['ce/0', 'ce_crw/0', 'ce_crs/0']


def test_a_seed_is_done_before_the_next_begins():
    runs = table_grid(config_maker(CONFIGS, 'digits_lt'), 3, seeds=2)
    rows = ['ce', 'ce_crw', 'ce_sc', 'sc_crw', 'ce_sc_crw']
    assert sorted(names(runs)) == sorted(f'{row}/{seed}' for row in rows for seed in (0, 1))
    assert [run.config.seed for run in runs] == [0] * 5 + [1] * 5
    assert {run.config.figures for run in runs} == {False}


def test_each_row_is_trained_on_every_fold():
    runs = table_grid(config_maker(CONFIGS, 'digits_lt'), 3, seeds=2, methods=['ce'], folds=3)
    assert names(runs) == [f'ce/{seed}/fold{fold}' for seed in (0, 1) for fold in range(3)]
    assert [(run.config.data.folds, run.config.data.fold) for run in runs[:3]] == [
        (3, fold) for fold in range(3)
    ]
    assert len({run.first_stage for run in runs}) == 6


def test_table_4_trains_two_backbones_from_their_own_weights():
    make = config_maker(CONFIGS, 'skin7', 'cpu_mobilenet_v2', ['stage1.epochs=2'])
    runs = table_grid(make, 4, seeds=1, methods=['ce_crw'], pretrained='w/{model}.pth')
    assert names(runs) == ['densenet121/ce_crw/0', 'mobilenet_v2/ce_crw/0']
    weights = [run.config.model.pretrained for run in runs]
    assert weights == ['w/densenet121.pth', 'w/mobilenet_v2.pth']
    assert {(run.config.stage1.epochs, run.config.augment.crop) for run in runs} == {(2, 64)}


def test_figure_2_covers_the_range_of_each_coefficient():
    for loss, coefficients in SENSITIVITY.values():
        low, high = STABLE_COEFFICIENTS[loss]
        assert {low, high} < set(coefficients)
        assert min(coefficients) < low < high < max(coefficients)
    runs = figure_grid(config_maker(CONFIGS, 'digits_lt'), seeds=1, methods=['ce_tp_crw'])
    assert names(runs)[0] == 'ce_tp_crw/1e-05/0'
    assert names(runs)[2] == 'ce_tp_crw/0'  # the default: the same run as in the tables
    values = [run.config.metric.triplet.coefficient for run in runs]
    assert values == list(SENSITIVITY['ce_tp_crw'][1])


def test_a_first_stage_is_shared_only_where_all_of_it_is_the_same():
    def of(method, *overrides):
        make = config_maker(CONFIGS, 'digits_lt', None, overrides)
        (run,) = table_grid(make, 2, seeds=1, methods=[method])
        return run.first_stage

    plain = of('ce')
    for method in ('ce_crw', 'ce_crs', 'ce_tau', 'ce_lws'):
        assert of(method) == plain
    assert of('ce_crw', 'stage2.epochs=3', 'second_heads.tau_normalized.tau=0.5') == plain
    for method in ('rs', 'rw', 'ce_drw', 'mixup', 'focal', 'bbn', 'ce_sc_crw'):
        assert of(method) != plain
    for override in ('stage1.epochs=3', 'data.major=2', 'num_devices=1', 'weighting.beta=0.99'):
        assert of('ce', override) != plain


def test_methods_of_a_flag():
    assert parse_methods(None) is None
    assert parse_methods('ce,ce_crw,ce') == ['ce', 'ce_crw']
    assert parse_methods('all') == list(METHODS)
    with pytest.raises(InputError, match='nothing'):
        parse_methods('ce,nothing')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('digits',), r'digits\.py.*digits_lt'),
        (('digits_lt', 'huge'), 'huge'),
        (('digits_lt', None, ['stage1']), "'stage1'; .*FIELD=VALUE"),
        (('digits_lt', None, ['stage1=3']), 'stage1=3'),
        (('digits_lt', None, ['stage1.length=3']), 'no field stage1.length'),
        (('digits_lt', None, ['seed.a=3']), 'no field seed.a'),
        (('digits_lt', None, ['stage1.epochs=0.5']), 'stage1.epochs=0.5'),
        (('digits_lt', None, ['seed=5']), '--seeds'),
    ],
)
def test_impossible_configs(arguments, message):
    with pytest.raises(InputError, match=message):
        table_grid(config_maker(CONFIGS, *arguments), 3, seeds=1)
