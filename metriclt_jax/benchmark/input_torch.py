"""The other side of the input comparison: a PyTorch DataLoader, in a process of its own.

Run by path with an interpreter that has torch, torchvision and Pillow; see `torch_worker.py` for
how it is asked. The one request makes a loader, takes batches from it for a while, and ends it:

    {"do": "sample", "kind": ..., "folder": ..., "size": R, "batch": B, "workers": n, "device": ...,
     "warm_up": k, "seconds": s}                                  -> {"images_per_second": ...}

Kinds: 'encoded' decodes and resizes an image file at a time, as a DataLoader usually does; 'items'
reads a decoded image at a time out of a memory map, and 'batches' a batch at a time.
"""

import io
import time

import torch_worker  # which says it in one sentence if there is no torch; so it comes first

try:
    import numpy as np
    import torch
except ImportError:
    pass


class Encoded:
    """Image files, laid end to end in one file."""

    def __init__(self, folder: str, size: int) -> None:
        self.files = np.memmap(f'{folder}/encoded', np.uint8, mode='r')
        self.offsets = np.load(f'{folder}/offsets.npy', allow_pickle=False)
        self.size = size

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int):
        from PIL import Image

        file = self.files[self.offsets[index] : self.offsets[index + 1]].tobytes()
        with Image.open(io.BytesIO(file)) as picture:
            aspect = picture.width / picture.height
            rgb = picture.convert('RGB')
            rgb = rgb.resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(rgb)), index, aspect


class Items:
    """Decoded images in a memory map; an item is an image."""

    def __init__(self, folder: str, size: int) -> None:
        with open(f'{folder}/cache_{size}') as file:
            path = file.read()
        self.pixels = np.memmap(path, np.uint8, mode='r').reshape(-1, size, size, 3)
        self.pixels = np.asarray(self.pixels)  # without memmap's slower indexing
        self.indices = np.load(f'{folder}/indices.npy', allow_pickle=False)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int):
        return torch.from_numpy(self.pixels[self.indices[index]].copy()), index, 1.0


class Batches(Items):
    """Decoded images in a memory map; they are read a batch at a time and not collated."""

    def __getitems__(self, indices: list[int]):
        images = self.pixels.take(self.indices[indices], axis=0)
        return torch.from_numpy(images), torch.tensor(indices), torch.ones(len(indices))


KINDS = {'encoded': Encoded, 'items': Items, 'batches': Batches}


def sample(programs: dict, request: dict) -> dict:
    """Images a second that a loader delivers, after `warm_up` batches."""
    del programs
    dataset = KINDS[request['kind']](request['folder'], request['size'])
    on_gpu = request['device'] == 'cuda'
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=request['batch'],
        sampler=torch.utils.data.RandomSampler(dataset, replacement=True, num_samples=2**40),
        num_workers=request['workers'],
        collate_fn=(lambda batch: batch) if request['kind'] == 'batches' else None,
        pin_memory=on_gpu,
    )

    def next_batch() -> None:
        batch = [array.to(request['device'], non_blocking=True) for array in next(batches)]
        if on_gpu:
            torch.cuda.synchronize()
        assert batch[0].dtype == torch.uint8

    batches = iter(loader)
    for _ in range(request['warm_up']):
        next_batch()
    started, count = time.perf_counter(), 0
    while (seconds := time.perf_counter() - started) < request['seconds']:
        next_batch()
        count += 1
    return {'images_per_second': count * request['batch'] / seconds}


if __name__ == '__main__':
    torch_worker.main({'sample': sample})
