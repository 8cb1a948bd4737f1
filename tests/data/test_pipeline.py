import itertools
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.data.dataset import Dataset
from metriclt_jax.data.pipeline import (
    eval_batches,
    prefetch_to_devices,
    steps_per_epoch,
    train_batches,
)
from metriclt_jax.data.sampling import SAMPLERS
from metriclt_jax.errors import InputError


class Images:
    """Every pixel of image i is i."""

    def read(self, indices):
        return np.broadcast_to(
            np.asarray(indices, np.uint8)[:, None, None, None], (len(indices), 4, 4, 3)
        ).copy()


COUNT = 60
LABELS = np.array([0] * 48 + [1] * 12, np.int32)


@pytest.fixture
def dataset():
    order = np.random.default_rng(0).permutation(COUNT)
    return Dataset(
        name='fake',
        class_names=('a', 'b'),
        images=Images(),
        labels=LABELS,
        aspects=np.arange(COUNT, dtype=np.float32) / 10,
        ids=np.arange(COUNT).astype(str),
        groups=None,
        parts={
            'train': np.sort(order[:45]),
            'validation': np.zeros(0, np.int64),
            'test': np.sort(order[45:]),
        },
    )


def train(dataset, first_step=0, num_steps=10, **options):
    options = {'sampler': 'instance', 'seed': 0, 'batch_size': 10} | options
    return list(train_batches(dataset, first_step=first_step, num_steps=num_steps, **options))


def indices(batches):
    return [batch['image'][:, 0, 0, 0].tolist() for batch in batches]


def assert_equal(batches, others):
    assert len(batches) == len(others)
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name, array in batch.items():
            np.testing.assert_array_equal(array, other[name])


def test_an_epoch_visits_training_images_once(dataset):
    assert steps_per_epoch(dataset, 10) == 4
    batches = indices(train(dataset, num_steps=8))
    epochs = [list(itertools.chain(*batches[:4])), list(itertools.chain(*batches[4:]))]
    batch = train(dataset)[3]
    chosen = batch['image'][:, 0, 0, 0]
    np.testing.assert_array_equal(batch['label'], LABELS[chosen])
    np.testing.assert_array_equal(batch['aspect'], dataset.aspects[chosen])
    for epoch in epochs:
        assert len(set(epoch)) == 40  # 45 less the last, incomplete batch
        assert set(epoch) <= set(dataset.parts['train'].tolist())
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1])  # another five are left out


@pytest.mark.parametrize('sampler', SAMPLERS)
def test_a_batch_is_a_pure_function_of_seed_and_step(dataset, sampler):
    options = {'sampler': sampler}
    whole = train(dataset, num_steps=13, **options)
    assert len({tuple(batch) for batch in indices(whole)}) == 13
    for first in (1, 3, 4, 7, 12, 13):  # within an epoch, at its end, past it
        assert_equal(train(dataset, first, 13 - first, **options), whole[first:])
    assert indices(train(dataset, seed=1, **options)) != indices(whole[:10])


def test_a_second_batch_is_what_its_sampler_draws_alone(dataset):
    options = {'second_sampler': 'reversed', 'num_steps': 13}
    pairs = train(dataset, **options)
    seconds = [batch.pop('second') for batch in pairs]
    assert_equal(pairs, train(dataset, num_steps=13))
    assert_equal(seconds, train(dataset, num_steps=13, sampler='reversed'))
    with pytest.raises(InputError, match="second_sampler is 'instance'"):
        train(dataset, second_sampler='instance')


def shares_of_hosts(count, batch_size=10):
    """The rows of each of `count` hosts."""
    size = batch_size // count
    return [slice(host * size, (host + 1) * size) for host in range(count)]


def joined(hosts):
    """The batches of hosts, row under row."""
    return [
        {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
        for batches in zip(*hosts, strict=True)
    ]


@pytest.mark.parametrize('sampler', SAMPLERS)
@pytest.mark.parametrize('hosts', [2, 5])
def test_what_hosts_draw_with_stops_between_is_what_one_draws(dataset, sampler, hosts):
    options = {'sampler': sampler}
    whole = train(dataset, num_steps=13, **options)
    stops = [(0, 5), (5, 1), (6, 7)]  # in an epoch, and past its end
    parts = [
        [batch for stop in stops for batch in train(dataset, *stop, rows=rows, **options)]
        for rows in shares_of_hosts(hosts)
    ]
    assert {len(batch['label']) for part in parts for batch in part} == {10 // hosts}
    assert_equal(joined(parts), whole)


def test_a_host_reads_its_own_rows_only(dataset, monkeypatch):
    read = []
    monkeypatch.setattr(Images, 'read', lambda self, rows: read.append(len(rows)) or rows)
    options = {'second_sampler': 'reversed', 'num_steps': 4, 'rows': slice(5, 10)}
    train(dataset, **options)
    assert read == [5] * 8
    list(eval_batches(dataset, 'test', 10, slice(5, 10)))
    assert read == [5] * 10


@pytest.mark.parametrize('batch_size', [10, 4])
def test_hosts_evaluate_every_image_once(dataset, batch_size):
    parts = [
        list(eval_batches(dataset, 'test', batch_size, rows))
        for rows in shares_of_hosts(2, batch_size)
    ]
    assert_equal(joined(parts), list(eval_batches(dataset, 'test', batch_size)))


@pytest.mark.parametrize('batch_size', [0, 46])
def test_a_batch_larger_than_the_training_part_is_refused_at_once(dataset, batch_size):
    with pytest.raises(InputError, match='batch_size'):
        train(dataset, batch_size=batch_size)


@pytest.mark.parametrize('batch_size', [1, 4, 15, 20])
def test_evaluation_sees_every_image_once(dataset, batch_size):
    batches = list(eval_batches(dataset, 'test', batch_size))
    assert {batch['image'].shape for batch in batches} == {(batch_size, 4, 4, 3)}
    assert {batch['mask'].dtype.name for batch in batches} == {'float32'}
    mask = np.concatenate([batch['mask'] for batch in batches])
    seen = np.concatenate([batch['image'][:, 0, 0, 0] for batch in batches])
    np.testing.assert_array_equal(seen[mask == 1], dataset.parts['test'])
    assert np.all(seen[mask == 0] == dataset.parts['test'][-1])
    assert set(mask) <= {0, 1}
    assert len(mask) < 15 + batch_size
    assert list(eval_batches(dataset, 'validation', batch_size)) == []


def host_batches(count, size=16):
    for number in range(count):
        yield {'image': np.full((size, 2), number, np.uint8), 'label': np.arange(size)}


@pytest.mark.parametrize('num_devices', [1, 4, 8])
def test_batches_lie_on_the_devices_as_pmap_wants_them(num_devices):
    devices = jax.devices()[:num_devices]
    traced = []

    def step(weight, batch):
        traced.append(batch)
        return jax.lax.pmean(weight * batch['label'].sum() + batch['image'][0, 0], 'batch')

    step = jax.pmap(step, axis_name='batch', in_axes=(None, 0), out_axes=None, devices=devices)
    mesh = jax.sharding.Mesh(np.array(devices), ('batch',))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    weight = jax.device_put(jnp.float32(2), everywhere)
    for number, batch in enumerate(prefetch_to_devices(host_batches(5), devices)):
        assert batch['image'].shape == (num_devices, 16 // num_devices, 2)
        for row, device in enumerate(devices):
            (shard,) = (s for s in batch['label'].addressable_shards if s.device == device)
            np.testing.assert_array_equal(
                shard.data.ravel(), np.arange(16).reshape(num_devices, -1)[row]
            )
        with jax.transfer_guard('disallow'):  # from the host, or between devices
            result = step(weight, batch)
        assert result == 2 * 120 / num_devices + number
    assert number == 4
    assert len(traced) == 1


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_prefetching_is_bounded():
    taken = []

    def batches():
        for number, batch in enumerate(host_batches(100)):
            taken.append(number)
            yield batch

    prefetched = prefetch_to_devices(batches(), jax.devices()[:2], depth=3)
    for received in range(1, 6):
        next(prefetched)
        wait_until(lambda expected=received + 3: len(taken) == expected)
    time.sleep(0.1)
    assert len(taken) == 8
    prefetched.close()
    time.sleep(0.1)
    assert len(taken) == 8


def test_prefetching_passes_errors_on_and_ends():
    def batches():
        yield from host_batches(2)
        raise KeyError('damaged')

    prefetched = prefetch_to_devices(batches(), jax.devices()[:2])
    next(prefetched)
    next(prefetched)
    with pytest.raises(KeyError, match='damaged'):
        next(prefetched)
    assert next(prefetched, None) is None
    assert list(prefetch_to_devices([], jax.devices()[:2])) == []


def test_no_thread_outlives_its_consumer(dataset):
    before = set(threading.enumerate())
    batches = train_batches(
        dataset, sampler='instance', seed=0, batch_size=10, first_step=0, num_steps=10**6
    )
    prefetched = prefetch_to_devices(batches, jax.devices()[:2])
    next(prefetched)
    assert set(threading.enumerate()) - before
    prefetched.close()
    del prefetched, batches
    wait_until(lambda: not set(threading.enumerate()) - before)


def test_a_batch_that_the_devices_cannot_share_is_refused():
    with pytest.raises(InputError, match=r'batch_size is 16; .* multiple of 3'):
        next(prefetch_to_devices(host_batches(1), jax.devices()[:3]))
