import numpy as np
import pytest
from scipy import stats

from metriclt_jax.data.sampling import SAMPLERS, epoch_order, generator

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [900, 90, 10]))  # no class 2


def test_instance_sampling_visits_every_image_once():
    order = epoch_order(LABELS, 'instance', seed=0, epoch=0)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.15


@pytest.mark.parametrize(
    ('sampler', 'probabilities'),
    [('class_balanced', [1 / 3, 1 / 3, 1 / 3]), ('reversed', [1 / 101, 10 / 101, 90 / 101])],
)
def test_classes_and_their_images_are_drawn_with_the_exact_probabilities(sampler, probabilities):
    orders = [epoch_order(LABELS, sampler, seed=3, epoch=epoch) for epoch in range(30)]
    assert {len(order) for order in orders} == {1000}
    order = np.concatenate(orders)
    drawn = np.bincount(LABELS[order], minlength=4)
    assert drawn[2] == 0
    present = [0, 1, 3]
    assert stats.chisquare(drawn[present], len(order) * np.array(probabilities)).pvalue > 0.01
    for label in present:  # within a class every image alike
        images = np.bincount(order, minlength=1000)[label == LABELS]
        assert stats.chisquare(images).pvalue > 0.01


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_an_order_is_a_pure_function_of_seed_and_epoch(sampler):
    def order(seed, epoch):
        return epoch_order(LABELS, sampler, seed, epoch)

    np.testing.assert_array_equal(order(1, 2), order(1, 2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert not np.array_equal(order(1, 2), order(seed, epoch))


def test_the_orders_of_record():
    # Runs that were cut off under one version of the package continue under another.
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    assert epoch_order(labels, 'instance', 0, 0).tolist() == [2, 7, 6, 4, 3, 0, 1, 5]
    assert epoch_order(labels, 'class_balanced', 0, 0).tolist() == [5, 7, 7, 4, 7, 6, 3, 7]
    assert epoch_order(labels, 'reversed', 0, 0).tolist() == [7, 7, 7, 7, 6, 7, 7, 7]
    order = epoch_order(LABELS, 'class_balanced', 7, 3)
    assert order[:8].tolist() == [672, 814, 477, 358, 335, 631, 631, 122]
    assert order.sum() == 470748
    order = epoch_order(LABELS, 'instance', 7, 3)
    assert order[:8].tolist() == [732, 894, 523, 155, 237, 950, 623, 821]


def test_streams_of_different_purposes_are_independent():
    drawn = {
        generator(*arguments).integers(2**62).item()
        for arguments in (('a', 0), ('b', 0), ('a', 1), ('a', 0, 0), ('a', 0, 1), ('a', 1, 0))
    }
    assert len(drawn) == 6
