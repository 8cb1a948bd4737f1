"""What a source has become since records were made of it."""

import hashlib
import io
from collections.abc import Iterable
from typing import NamedTuple

from PIL import Image

from metriclt_jax.data import records
from metriclt_jax.data.records import Records
from metriclt_jax.data.sources.common import Example, Source

_NAMED = 3  # images of each kind in a message


class _Fields(NamedTuple):
    """What may change of an image."""

    label: str
    group: str
    part: str
    content: bytes


def find_changes(before: Records, now: Source) -> list[str]:
    """Says how the images, labels, groups and parts of a source differ from those of records."""
    # Readers that encode images themselves may do it otherwise, with another version of Pillow.
    decoded = not now.files
    old = _fields(before.class_names, before.read_all(), decoded)
    new = _fields(now.class_names, now.examples, decoded)
    texts = {
        'new images': sorted(new.keys() - old.keys()),
        'images that are gone': sorted(old.keys() - new.keys()),
    }
    both = sorted(old.keys() & new.keys())
    for field in _Fields._fields:
        texts[f'another {field}'] = [
            image_id if field == 'content' else f'{image_id}: {was!r} became {become!r}'
            for image_id in both
            if (was := getattr(old[image_id], field)) != (become := getattr(new[image_id], field))
        ]
    found = [
        f'{what}: {len(images)} ({", ".join(images[:_NAMED])}'
        f'{", ..." if len(images) > _NAMED else ""})'
        for what, images in texts.items()
        if images
    ]
    if before.class_names != now.class_names:
        found.append(f'the classes are now {", ".join(now.class_names)}')
    return found


def _fields(class_names, examples: Iterable[Example], decoded: bool) -> dict[str, _Fields]:
    found = {}
    for image_id, label, group, content, part in map(records.with_bytes, examples):
        if decoded:
            content = Image.open(io.BytesIO(content)).tobytes()
        digest = hashlib.sha256(content).digest()
        found[image_id] = _Fields(class_names[label], group, part, digest)
    return found
