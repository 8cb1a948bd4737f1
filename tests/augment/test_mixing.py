"""Mixing: who is mixed with whom, how much of each is seen, and what the labels say."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from metriclt_jax.augment import MIXINGS, Mixing, mixing
from metriclt_jax.errors import InputError

BATCH, SIZE = 16, 12
COUNTS = jnp.asarray([5000.0, 500.0, 200.0, 50.0, 0.0])


def constant_images(values):
    """Images of one colour each."""
    return jnp.broadcast_to(
        jnp.asarray(values, jnp.float32)[:, None, None, None], (len(values), SIZE, SIZE, 3)
    )


# Every image has a colour and a class of its own, so what was mixed can be read off.
COLOURS = constant_images(np.arange(BATCH))
CLASSES = jnp.arange(BATCH)
SECOND = (constant_images(100 + np.arange(BATCH)), (CLASSES + 5) % BATCH)


@functools.partial(jax.jit, static_argnames=('name', 'num_classes', 'alpha'))
def mix(name, key, images, labels, num_classes, alpha=1.0, probability=1.0, **beside):
    beside = {key: value for key, value in beside.items() if key in mixing.NEEDS.get(name, ())}
    return MIXINGS[name](
        key, images, labels, num_classes, alpha=alpha, probability=probability, **beside
    )


def mix_colours(name, seed, **options):
    beside = {'class_counts': jnp.ones(BATCH), 'second': SECOND}
    images, labels = mix(name, jax.random.key(seed), COLOURS, CLASSES, BATCH, **beside, **options)
    return np.asarray(images), np.asarray(labels)


@pytest.mark.parametrize('name', ['mixup', 'cutmix', 'remix'])
def test_images_and_labels_share_the_permutation_and_the_share(name):
    orders = set()
    for seed in range(5):
        images, labels = mix_colours(name, seed)
        assert images.shape == COLOURS.shape
        assert labels.shape == (BATCH, BATCH)
        assert images.dtype == labels.dtype == np.float32
        # The mean colour is the mean of the classes under the label, both being the index.
        np.testing.assert_allclose(images.mean((1, 2, 3)), labels @ np.arange(BATCH), rtol=1e-5)
        share = np.diag(labels).min()
        others = labels - share * np.eye(BATCH)
        assert 0.01 < share < 0.99
        # One share for all, and the partners are each example exactly once.
        np.testing.assert_allclose(np.sort(others, axis=1)[:, -1], 1 - share, rtol=1e-5)
        order = others.argmax(axis=1)
        np.testing.assert_array_equal(np.sort(order), np.arange(BATCH))
        orders.add(tuple(order))
    assert len(orders) == 5


def test_balanced_mixup_takes_its_partners_from_the_second_batch():
    images, labels = mix_colours('balanced_mixup', 1, alpha=0.5)
    share = labels[0, 0]
    assert 0.01 < share < 0.99
    own, other = np.eye(BATCH), np.eye(BATCH)[np.asarray(SECOND[1])]
    np.testing.assert_allclose(labels, share * own + (1 - share) * other, atol=1e-6)
    expected = share * COLOURS + (1 - share) * SECOND[0]
    np.testing.assert_allclose(images, expected, rtol=1e-5)


def test_every_image_of_a_mixup_has_one_colour_and_of_a_cutmix_two():
    assert np.ptp(mix_colours('mixup', 0)[0], axis=(1, 2, 3)).max() == 0
    images, labels = mix_colours('cutmix', 0)
    inside = images[:, :, :, 0] != np.arange(BATCH)[:, None, None]
    for image, hole, row in zip(images, inside, labels, strict=True):
        if hole.any():
            assert len(np.unique(image)) == 2
            np.testing.assert_allclose(row[int(image[hole].flat[0])], hole.mean(), rtol=1e-5)
            # The hole is a rectangle, and the same for all.
            rows, columns = hole.any(axis=1), hole.any(axis=0)
            np.testing.assert_array_equal(hole, rows[:, None] & columns)
            np.testing.assert_array_equal(hole, inside.any(axis=0))
    assert inside.any(axis=(1, 2)).sum() >= BATCH - 3


def test_the_box_of_cutmix_at_a_corner():
    # Half of the side around the corner, of which a quarter is inside the image.
    box = mixing.box(jnp.float32(0.75), 0, 0, 224, 224)
    assert [int(end) for end in box] == [0, 56, 0, 56]
    box = mixing.box(jnp.float32(0.75), 112, 223, 224, 224)
    assert [int(end) for end in box] == [56, 168, 167, 224]


@given(
    name=st.sampled_from(list(MIXINGS)),
    seed=st.integers(0, 2**32 - 1),
    probability=st.floats(0, 1),
    labels=st.lists(st.integers(0, 4), min_size=BATCH, max_size=BATCH),
)
@settings(deadline=None, max_examples=30)
def test_labels_are_probabilities_and_images_stay_in_range(name, seed, probability, labels):
    key, labels = jax.random.key(seed), jnp.asarray(labels)
    beside = {'class_counts': COUNTS, 'second': (SECOND[0] - 100, labels[::-1])}
    images, mixed = mix(name, key, COLOURS, labels, 5, probability=probability, **beside)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, atol=2e-7)
    assert mixed.min() >= 0
    assert images.min() >= 0
    assert images.max() <= BATCH - 1 + 1e-5
    assert (mixed > 0).sum(axis=1).max() <= 2


@pytest.mark.parametrize(('a', 'b'), [(1.0, 1.0), (1.0, 0.5), (1.0, 3.0), (0.5, 0.5), (4.0, 4.0)])
def test_how_often_is_mixed_and_the_distribution_of_the_share(a, b):
    keys = jax.random.split(jax.random.key(0), 3000)
    shares = np.asarray(jax.jit(jax.vmap(lambda key: mixing.draw_lam(key, a, b, 0.7)))(keys))
    mixed = shares[shares < 1]
    assert len(mixed) / 3000 == pytest.approx(0.7, abs=0.035)  # four standard errors
    assert stats.kstest(mixed, stats.beta(a, b).cdf).pvalue > 0.01


@pytest.mark.parametrize(('name', 'a', 'b'), [('mixup', 2, 2), ('balanced_mixup', 1, 2)])
def test_which_share_a_mixing_draws(name, a, b):
    images, first, second = COLOURS[:2], CLASSES[:2], CLASSES[2:4]

    def share(key):
        return mix(name, key, images, first, 4, alpha=2.0, second=(images, second))[1][0, 0]

    drawn = np.asarray(jax.jit(jax.vmap(share))(jax.random.split(jax.random.key(3), 2000)))
    drawn = drawn[drawn < 1]  # some permutations leave the two in place
    assert len(drawn) > 800
    assert stats.kstest(drawn, stats.beta(a, b).cdf).pvalue > 0.01


@pytest.mark.parametrize('name', MIXINGS)
def test_with_probability_0_nothing_changes(name):
    images, labels = mix_colours(name, 0, probability=0.0)
    np.testing.assert_array_equal(images, COLOURS)
    np.testing.assert_array_equal(labels, np.eye(BATCH))


@pytest.mark.parametrize(
    ('share', 'own', 'other', 'expected'),
    [
        (0.4, 500, 50, 0.0),  # the frequent one's image is the smaller part: it loses its label
        (0.6, 500, 50, 0.6),
        (0.5, 500, 50, 0.5),  # not below tau
        (0.6, 50, 500, 1.0),
        (0.4, 50, 500, 0.4),
        (0.5, 50, 500, 0.5),
        (0.4, 150, 50, 0.0),  # three times is enough
        (0.4, 149, 50, 0.4),
        (0.4, 50, 50, 0.4),
    ],
)
def test_the_label_share_of_remix(share, own, other, expected):
    given = (np.float32(share), jnp.asarray([own]), jnp.asarray([other]))
    assert mixing.rebalanced_lam(*given) == np.float32(expected)
    # As seen from the partner.
    mirrored = (np.float32(1 - share), jnp.asarray([other]), jnp.asarray([own]))
    np.testing.assert_allclose(mixing.rebalanced_lam(*mirrored), 1 - expected, rtol=1e-6)


def test_remix_takes_images_of_mixup_and_prefers_the_rarer_class():
    labels = jnp.asarray([0] * 8 + [2] * 4 + [3] * 4)
    for seed in range(6):
        key = jax.random.key(seed)
        images, mixed = mix('remix', key, COLOURS, labels, 5, class_counts=COUNTS)
        same_images, plain = mix('mixup', key, COLOURS, labels, 5)
        np.testing.assert_array_equal(images, same_images)
        for row, mixed_row in zip(np.asarray(plain), mixed, strict=True):
            frequent, rare = np.flatnonzero(row)[[0, -1]]  # classes are sorted by their counts
            expected = np.eye(5)[rare] if row[frequent] < 0.5 else row
            np.testing.assert_allclose(mixed_row, expected, atol=1e-6)


@pytest.mark.parametrize(
    ('name', 'alpha', 'num_devices'),
    [
        *((name, 1.0, 8) for name in MIXINGS),
        ('cutmix', 1.0, 2),
        pytest.param('mixup', 0.5, 8, marks=pytest.mark.slow),  # compiles long
    ],
)
def test_devices_make_no_difference(name, alpha, num_devices):
    rng = np.random.default_rng(0)

    def draw():
        images = rng.normal(size=(BATCH, SIZE, SIZE, 3)).astype(np.float32)
        return images, rng.integers(0, 4, BATCH)

    first, second = draw(), draw()

    def apply(key, first, second, axis_name=None):
        beside = {'class_counts': COUNTS, 'second': second}
        return Mixing(name, alpha)(key, *first, 5, axis_name, **beside)

    on_devices = jax.pmap(
        functools.partial(apply, axis_name='batch'),
        axis_name='batch',
        in_axes=(None, 0, 0),
        devices=jax.devices()[:num_devices],
    )
    divided = jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), (first, second))
    for seed in range(3):
        images, labels = jax.jit(apply)(jax.random.key(seed), first, second)
        split_images, split_labels = on_devices(jax.random.key(seed), *divided)
        # Bit for bit: the same products and sums for each pixel, whoever makes them.
        np.testing.assert_array_equal(np.reshape(split_images, images.shape), images)
        np.testing.assert_array_equal(np.reshape(split_labels, labels.shape), labels)
        assert not np.array_equal(images, first[0])


def test_what_does_not_fit_is_refused():
    nan = float('nan')
    for field, value in (('name', 'mix'), ('alpha', 0.0), ('alpha', nan), ('probability', 1.5)):
        with pytest.raises(InputError, match=field):
            Mixing(**{'name': 'mixup', field: value})
    key, beside = jax.random.key(0), {'class_counts': COUNTS, 'second': SECOND}
    with pytest.raises(ValueError, match='images must be float'):
        Mixing('mixup')(key, COLOURS.astype(jnp.uint8), CLASSES, 5, **beside)
    second = SECOND[0][:4], SECOND[1][:4]
    with pytest.raises(ValueError, match='second batch'):
        Mixing('balanced_mixup')(key, COLOURS, CLASSES, 5, second=second)
