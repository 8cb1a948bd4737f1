import numpy as np
import pytest

from metriclt_jax.data.sampling import epoch_order
from metriclt_jax.data.seeding import generator
from metriclt_jax.errors import InputError

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [900, 90, 10]))  # no class 2


def test_instance_sampling_visits_every_image_once():
    order = epoch_order(LABELS, 'instance', seed=0, epoch=0)
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert abs(np.corrcoef(order, np.arange(1000))[0, 1]) < 0.15


def test_class_balanced_sampling_draws_classes_and_their_images_uniformly():
    orders = [epoch_order(LABELS, 'class_balanced', seed=0, epoch=epoch) for epoch in range(30)]
    assert {len(order) for order in orders} == {1000}
    order = np.concatenate(orders)
    # 30,000 draws: the standard deviation of a class's share is 0.0027.
    shares = np.bincount(LABELS[order]) / len(order)
    np.testing.assert_allclose(shares, [1 / 3, 1 / 3, 0, 1 / 3], atol=0.012)
    # Each of the 10 rare images is drawn 1,000 times on average, with standard deviation 31.
    rare = np.bincount(order, minlength=1000)[LABELS == 3]
    np.testing.assert_allclose(rare, 1000, atol=140)
    assert np.bincount(order, minlength=1000)[LABELS == 0].min() > 0


@pytest.mark.parametrize('sampler', ['instance', 'class_balanced'])
def test_an_order_is_a_pure_function_of_seed_and_epoch(sampler):
    order = epoch_order(LABELS, sampler, seed=1, epoch=2)
    np.testing.assert_array_equal(order, epoch_order(LABELS, sampler, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert not np.array_equal(order, epoch_order(LABELS, sampler, seed=seed, epoch=epoch))


def test_the_orders_of_record():
    # Runs that were cut off by one version of the package go on with another.
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    assert epoch_order(labels, 'instance', 0, 0).tolist() == [2, 7, 6, 4, 3, 0, 1, 5]
    assert epoch_order(labels, 'class_balanced', 0, 0).tolist() == [5, 7, 7, 4, 7, 6, 3, 7]


def test_size():
    assert len(epoch_order(LABELS, 'class_balanced', 0, 0, size=2500)) == 2500
    assert len(set(epoch_order(LABELS, 'instance', 0, 0, size=300))) == 300
    with pytest.raises(InputError, match='at most all 1000'):
        epoch_order(LABELS, 'instance', 0, 0, size=1001)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="'balanced'; allowed: instance, class_balanced"):
        epoch_order(LABELS, 'balanced', 0, 0)
    with pytest.raises(InputError, match='allowed: 0 or more'):
        epoch_order(LABELS, 'instance', -1, 0)


def test_streams_of_different_purposes_are_independent():
    drawn = {
        generator(*arguments).integers(2**62).item()
        for arguments in (('a', 0), ('b', 0), ('a', 1), ('a', 0, 0), ('a', 0, 1), ('a', 1, 0))
    }
    assert len(drawn) == 6
