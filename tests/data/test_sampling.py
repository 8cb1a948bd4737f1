import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from metriclt_jax.data.sampling import class_probabilities, epoch_order
from metriclt_jax.data.seeding import generator
from metriclt_jax.errors import InputError

SAMPLERS = ['instance', 'class_balanced', 'square_root', 'reversed', 'progressive']
EPOCHS = 11
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


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_an_order_is_a_pure_function_of_seed_and_epoch(sampler):
    def order(seed, epoch):
        return epoch_order(LABELS, sampler, seed, epoch, epochs=EPOCHS)

    np.testing.assert_array_equal(order(1, 2), order(1, 2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert not np.array_equal(order(1, 2), order(seed, epoch))


def test_the_probabilities_of_the_classes():
    counts = [5000, 500, 50]
    expected = {
        'instance': np.array([100, 10, 1]) / 111,
        'class_balanced': np.ones(3) / 3,
        'square_root': np.array([10, 10**0.5, 1]) / (11 + 10**0.5),
        'reversed': np.array([1, 10, 100]) / 111,
    }
    for sampler, probabilities in expected.items():
        np.testing.assert_allclose(class_probabilities(counts, sampler), probabilities, rtol=1e-12)
    for progress in (0.0, 0.25, 1.0):
        np.testing.assert_allclose(
            class_probabilities(counts, 'progressive', progress),
            (1 - progress) * expected['instance'] + progress * expected['class_balanced'],
            rtol=1e-12,
        )


@given(
    counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=20).filter(any),
    sampler=st.sampled_from(SAMPLERS),
    progress=st.floats(0, 1),
)
def test_only_classes_with_images_have_a_probability(counts, sampler, progress):
    probabilities = class_probabilities(counts, sampler, progress)
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-12)
    np.testing.assert_array_equal(probabilities > 0, np.array(counts) > 0)


@pytest.mark.parametrize(
    ('sampler', 'epoch'),
    [
        ('class_balanced', 0),
        ('square_root', 0),
        ('reversed', 0),
        ('progressive', 0),
        ('progressive', 5),
        ('progressive', 10),
        ('progressive', 40),  # past the end: as at the end
    ],
)
def test_drawn_classes_have_the_exact_probabilities(sampler, epoch):
    size = 30_000
    order = epoch_order(LABELS, sampler, seed=3, epoch=epoch, size=size, epochs=EPOCHS)
    drawn = np.bincount(LABELS[order], minlength=4)
    assert drawn[2] == 0
    probabilities = class_probabilities([900, 90, 0, 10], sampler, min(epoch / 10, 1))
    present = [0, 1, 3]
    assert stats.chisquare(drawn[present], size * probabilities[present]).pvalue > 0.01
    # Within a class every image alike.
    for label in present:
        images = np.bincount(order, minlength=1000)[label == LABELS]
        assert stats.chisquare(images).pvalue > 0.01


def test_progressive_begins_as_instance_and_ends_as_class_balanced():
    labels = np.repeat([0, 1], [900, 100])
    shares = [
        labels[epoch_order(labels, 'progressive', 0, epoch, 20_000, epochs=3)].mean()
        for epoch in range(3)
    ]
    # The standard deviation of a share is at most 0.0035.
    np.testing.assert_allclose(shares, [0.1, 0.3, 0.5], atol=0.014)
    only = labels[epoch_order(labels, 'progressive', 0, 0, 20_000, epochs=1)].mean()
    np.testing.assert_allclose(only, 0.1, atol=0.014)


@pytest.mark.parametrize('epochs', [None, 0])
def test_progressive_without_a_number_of_epochs_is_refused(epochs):
    with pytest.raises(InputError, match=f'is {epochs}; allowed: 1 or more'):
        epoch_order(LABELS, 'progressive', 0, 0, epochs=epochs)


def test_the_orders_of_record():
    # Runs that were cut off by one version of the package go on with another.
    labels = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    assert epoch_order(labels, 'instance', 0, 0).tolist() == [2, 7, 6, 4, 3, 0, 1, 5]
    assert epoch_order(labels, 'class_balanced', 0, 0).tolist() == [5, 7, 7, 4, 7, 6, 3, 7]
    assert epoch_order(labels, 'square_root', 0, 0).tolist() == [6, 0, 3, 6, 2, 7, 7, 4]
    assert epoch_order(labels, 'reversed', 0, 0).tolist() == [7, 7, 7, 7, 6, 7, 7, 7]
    progressive = epoch_order(labels, 'progressive', 0, 0, epochs=3)
    assert progressive.tolist() == [4, 4, 2, 0, 4, 3, 7, 1]
    order = epoch_order(LABELS, 'class_balanced', 7, 3)
    assert order[:8].tolist() == [672, 814, 477, 358, 335, 631, 631, 122]
    assert order.sum() == 470748
    order = epoch_order(LABELS, 'instance', 7, 3)
    assert order[:8].tolist() == [732, 894, 523, 155, 237, 950, 623, 821]


def test_size():
    assert len(epoch_order(LABELS, 'reversed', 0, 0, size=2500)) == 2500
    assert len(epoch_order(LABELS, 'class_balanced', 0, 0, size=2500)) == 2500
    assert len(set(epoch_order(LABELS, 'instance', 0, 0, size=300))) == 300
    with pytest.raises(InputError, match='at most all 1000'):
        epoch_order(LABELS, 'instance', 0, 0, size=1001)


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="'balanced'; allowed: instance, class_balanced"):
        epoch_order(LABELS, 'balanced', 0, 0)
    with pytest.raises(InputError, match='reversed, progressive'):
        class_probabilities([1, 2], 'balanced')
    with pytest.raises(InputError, match='allowed: 0 or more'):
        epoch_order(LABELS, 'instance', -1, 0)


def test_streams_of_different_purposes_are_independent():
    drawn = {
        generator(*arguments).integers(2**62).item()
        for arguments in (('a', 0), ('b', 0), ('a', 1), ('a', 0, 0), ('a', 0, 1), ('a', 1, 0))
    }
    assert len(drawn) == 6
