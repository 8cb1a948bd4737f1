"""Real X-rays and photographs, from files to the parts of a data set."""

import csv
import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import load_dataset, prepare, records
from metriclt_jax.data.sources import xray9


def real(name):
    if not os.environ.get('METRICLT_DATA'):
        pytest.skip(f'METRICLT_DATA names no folder with {name}')
    return np.load(Path(os.environ['METRICLT_DATA']) / name, allow_pickle=False)


def test_xrays_in_the_official_layout(tmp_path):
    with real('nih1000_64x64_gray.npz') as data:
        images, labels, patients = data['images'], data['labels'], data['patient']
        names = [str(name) for name in data['classes']]
    assert set(names) == set(xray9.CLASS_NAMES)
    folder = tmp_path / 'nih' / 'images_001' / 'images'
    folder.mkdir(parents=True)
    with (tmp_path / 'nih' / 'Data_Entry_2017.csv').open('w', newline='') as table:
        writer = csv.writer(table)
        writer.writerow(['Image Index', 'Finding Labels', 'Patient ID'])
        for number, image in enumerate(images):
            file = f'{number:08d}_000.png'
            findings = '|'.join(names[c] for c in np.flatnonzero(labels[number])) or 'No Finding'
            writer.writerow([file, findings, patients[number]])
            picture = Image.fromarray(image)
            (picture.convert('RGBA') if number % 7 == 0 else picture).save(folder / file)
    prepare('xray9', str(tmp_path / 'nih'), str(tmp_path / 'data'))
    opened = records.open_records('xray9', str(tmp_path / 'data'))
    examples = opened.read(range(len(opened)))
    single = np.flatnonzero(labels.sum(axis=1) == 1)
    assert [int(example.image_id[:8]) for example in examples] == single.tolist()
    for example, number in zip(examples, single, strict=True):
        assert labels[number, names.index(opened.class_names[example.label])] == 1
        assert example.group == str(patients[number])
    pixels = np.asarray(Image.open(io.BytesIO(examples[0].image)).convert('L'))
    np.testing.assert_array_equal(pixels, images[single[0]])


def test_photographs_in_a_folder_for_each_class(tmp_path, data_config):
    with real('flowers17_64x64_jpeg.npz') as data:
        content, offsets, labels = data['all_jpeg'], data['all_off'], data['all_labels']
    for number, label in enumerate(labels):
        path = tmp_path / 'flowers' / f'class {label:02d}' / f'image_{number:04d}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[offsets[number] : offsets[number + 1]].tobytes())
    prepare('folder', str(tmp_path / 'flowers'), str(tmp_path / 'data'), 'flowers17')
    dataset = load_dataset(data_config(tmp_path / 'data', name='flowers17', resize=64))
    assert dataset.train_counts.tolist() == [60] * 17
    numbers = [int(image_id[-8:-4]) for image_id in dataset.ids]
    assert sorted(numbers) == list(range(1360))
    np.testing.assert_array_equal(dataset.labels, labels[numbers])
    first = content[offsets[numbers[0]] : offsets[numbers[0] + 1]].tobytes()
    np.testing.assert_array_equal(
        dataset.images.read(np.array([0]))[0], np.asarray(Image.open(io.BytesIO(first)))
    )
