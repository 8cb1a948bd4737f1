"""How fast batches reach the devices, beside a plain copy in memory and beside PyTorch."""

import dataclasses
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from rich import box
from rich.table import Table

from metriclt_jax.augment.geometry import AugmentConfig, augment
from metriclt_jax.benchmark.timing import time_steps
from metriclt_jax.benchmark.torch_process import DEVICES, Torch
from metriclt_jax.data.cache import IMAGES, cache_path
from metriclt_jax.data.dataset import Dataset, load_dataset
from metriclt_jax.data.decoding import decode
from metriclt_jax.data.pipeline import prefetch_to_devices, train_batches
from metriclt_jax.data.records import Records, open_records

MOST_IMAGES = 4096  # of the training part: enough to leave the processor's caches behind
WARM_UP = 16  # batches before the clock starts: more than are made ahead of time
ENDLESS = 2**40  # steps
# What PyTorch is measured with, beside `threads` worker processes: (kind, whether it has workers).
TORCH_SIDES = {
    False: {'a worker each': ('encoded', True), 'no workers': ('encoded', False)},
    True: {
        'images': ('items', True),
        'batches': ('batches', True),
        'batches, no workers': ('batches', False),
    },
}


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        size: side of the images that the model sees, in pixels.
        cached: whether images come from the cache, or are decoded each time.
        threads: how many make batches.
    """

    size: int
    cached: bool
    threads: int


@dataclasses.dataclass(frozen=True)
class Undecoded:
    """What `cache.Images` is, without a cache: every image is decoded each time it is read."""

    source: Records
    size: int

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images of `indices` `[n]` as uint8 `[n, R, R, 3]`."""
        examples = self.source.read(indices)
        return np.stack([decode(it.image, self.size, it.image_id)[0] for it in examples])


class Subject(NamedTuple):
    """A data set, ready to be read in both ways.

    Attributes:
        cached: with at most `MOST_IMAGES` training images, all of them read once.
        undecoded: the same, without a cache.
        size: R, the side of cached images.
        first_images_per_second: the rate of that first reading, which checks every image.
    """

    cached: Dataset
    undecoded: Dataset
    size: int
    first_images_per_second: float


def make_subject(config: ConfigDict, size: int) -> Subject:
    """Opens the data set of `config.data` for a model that sees `size` x `size` pixels."""
    data = config.data.copy_and_resolve_references()
    # In the paper's proportion.
    data.resize = round(size * config.data.resize / config.augment.crop)
    dataset = load_dataset(data)
    train = dataset.parts['train']
    train = train[np.linspace(0, len(train) - 1, min(MOST_IMAGES, len(train))).astype(int)]
    cached = dataclasses.replace(dataset, parts={'train': train})
    started = time.perf_counter()
    for indices in np.array_split(train, 64):
        cached.images.read(indices)
    first = len(train) / (time.perf_counter() - started)
    source = open_records(data.name, data.data_dir)
    undecoded = dataclasses.replace(cached, images=Undecoded(source, data.resize))
    return Subject(cached, undecoded, data.resize, first)


def write_for_torch(subjects: Sequence[Subject], data_dir: str, folder: Path) -> None:
    """Puts into `folder` what `input_torch.py` reads: the same images, encoded and decoded."""
    dataset = subjects[0].undecoded
    train = dataset.parts['train']
    np.save(folder / 'indices.npy', train)
    offsets = [0]
    with (folder / 'encoded').open('wb') as file:
        for index in train:
            offsets.append(offsets[-1] + file.write(dataset.images.source.read([index])[0].image))
    np.save(folder / 'offsets.npy', np.array(offsets))
    for subject in subjects:
        path = cache_path(dataset.name, subject.size, data_dir) / IMAGES
        (folder / f'cache_{subject.size}').write_text(str(path.resolve()))


def measure(
    case: Case,
    subject: Subject,
    devices: Sequence[jax.Device],
    *,
    batch: int,
    repeats: int,
    seconds: float,
    torch: Torch | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Images a second of each side, in alternation: ours, a copy in memory, PyTorch's loaders.

    Args:
        case: what to measure.
        subject: `make_subject` for the size of the case.
        devices: where batches go.
        batch: images in one.
        repeats: samples of each side.
        seconds: of a sample.
        torch: PyTorch, or None.
        folder: from `write_for_torch`.
    """
    dataset = subject.cached if case.cached else subject.undecoded
    sides: dict[str, Callable[[], float]] = {
        'ours': lambda: delivered(dataset, devices, batch, case.threads, seconds)
    }
    if case.cached:
        pixels, indices = subject.cached.images.pixels, dataset.parts['train']
        sides['copy'] = lambda: copied(pixels, indices, batch, case.threads, seconds)
    if torch is not None:

        def loaded(kind: str, has_workers: bool) -> float:
            answer = torch.ask(
                do='sample',
                kind=kind,
                folder=str(folder),
                size=subject.size,
                batch=batch,
                workers=case.threads if has_workers else 0,
                device=DEVICES[devices[0].platform],
                warm_up=WARM_UP,
                seconds=seconds,
            )
            if 'error' in answer:
                raise RuntimeError(f'PyTorch failed: {answer["error"]}')
            return answer['images_per_second']

        for name, side in TORCH_SIDES[case.cached].items():
            sides[f'PyTorch, {name}'] = lambda side=side: loaded(*side)
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, sample in sides.items():
            _wait_until_idle()
            samples[name].append(sample())
    return case._asdict() | {'stored_size': subject.size, 'images_per_second': samples}


def delivered(
    dataset: Dataset, devices: Sequence[jax.Device], batch: int, threads: int, seconds: float
) -> float:
    """Images a second that training would be given: on the devices, as `jax.Array`s."""
    batches = prefetch_to_devices(
        train_batches(
            dataset,
            sampler='instance',
            seed=0,
            batch_size=batch,
            first_step=0,
            num_steps=ENDLESS,
            threads=threads,
        ),
        devices,
    )
    try:
        return _rate(lambda: jax.block_until_ready(next(batches)), batch, seconds, WARM_UP)
    finally:
        batches.close()


def copied(
    pixels: np.ndarray, indices: np.ndarray, batch: int, threads: int, seconds: float
) -> float:
    """Images a second that threads copy from `pixels` to memory of their own: the floor.

    Blocks of neighbouring images, into memory that is there already: no gather can be faster.
    """
    local = threading.local()
    starts = itertools.cycle(range(0, len(indices) - batch + 1, batch))

    def copy(start: int) -> None:
        if not hasattr(local, 'target'):
            local.target = np.zeros((batch, *pixels.shape[1:]), pixels.dtype)
        first = min(indices[start], len(pixels) - batch)
        np.copyto(local.target, pixels[first : first + batch])

    with ThreadPoolExecutor(threads) as pool:
        under_way = [pool.submit(copy, next(starts)) for _ in range(2 * threads)]

        def next_batch() -> None:
            under_way.pop(0).result()
            under_way.append(pool.submit(copy, next(starts)))

        return _rate(next_batch, batch, seconds, len(indices) // batch)


def augmented(subject: Subject, size: int, batch: int, device: jax.Device, seconds: float) -> float:
    """Images a second of the augmentation alone, with batches that are on the device."""
    geometry = AugmentConfig(resize=subject.size, crop=size)
    indices = subject.cached.parts['train'][:batch]
    images = jax.device_put(subject.cached.images.read(indices), device)
    aspects = jax.device_put(subject.cached.aspects[indices], device)

    @jax.jit
    def step(last, images, aspects):  # takes the last result, so that one call waits for the other
        keys = jax.random.split(jax.random.key(last[0, 0, 0, 0].astype('uint32')), len(images))
        return augment(keys, images, aspects, geometry)

    carry = jax.numpy.zeros((len(indices), size, size, 3))
    carry, _ = time_steps(lambda last: step(last, images, aspects), carry, 1)  # compiles
    carry, once = time_steps(lambda last: step(last, images, aspects), carry, 1)
    count = max(1, round(seconds / once))
    return len(indices) / time_steps(lambda last: step(last, images, aspects), carry, count)[1]


def table(results: Sequence[dict[str, Any]]) -> Table:
    """Medians, and the ratios to the copy and to the best of PyTorch, sample by sample."""
    shown = Table(
        title='Images a second, delivered to the devices',
        caption='copy: what the same threads copy in memory. PyTorch: its fastest side. ratio: '
        'ours over the column before, the median of neighbouring samples.',
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_style='',
        title_justify='left',
        caption_justify='left',
    )
    for heading in ('px', 'stored', 'images', 'threads'):
        shown.add_column(heading, no_wrap=True)
    for heading in ('ours', 'copy', 'ratio', 'PyTorch', 'ratio'):
        shown.add_column(heading, justify='right', no_wrap=True)
    for result in results:
        samples = result['images_per_second']
        medians = {name: statistics.median(values) for name, values in samples.items()}
        torch = [name for name in samples if name.startswith('PyTorch')]
        best = max(torch, key=medians.get, default=None)
        shown.add_row(
            str(result['size']),
            str(result['stored_size']),
            'cached' if result['cached'] else 'decoded',
            str(result['threads']),
            f'{medians["ours"]:.0f}',
            *_compared(samples, medians, 'copy' if 'copy' in samples else None),
            *_compared(samples, medians, best),
        )
    return shown


def _compared(samples: dict, medians: dict, side: str | None) -> tuple[str, str]:
    if side is None:
        return '', ''
    ratios = [a / b for a, b in zip(samples['ours'], samples[side], strict=True)]
    return f'{medians[side]:.0f}', f'{statistics.median(ratios):.2f}'


def _rate(next_batch: Callable[[], Any], batch: int, seconds: float, warm_up: int) -> float:
    for _ in range(warm_up):
        next_batch()
    started, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - started) < seconds:
        next_batch()
        count += 1
    return count * batch / passed


def _wait_until_idle() -> None:
    """Waits until this process computes nothing any more, such as batches that nobody wants."""
    for _ in range(100):
        before = time.process_time()
        time.sleep(0.05)
        if time.process_time() - before < 0.01:
            return
