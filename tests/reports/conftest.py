"""Work directories as runs write them, made up without training."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.config import paper_config
from metriclt_jax.evaluation.metrics import summarize
from metriclt_jax.reports import drawing
from metriclt_jax.reports.runs import read_runs
from metriclt_jax.reports.sections import make_sections

CLASS_NAMES = ['NV', 'MEL', 'BKL', 'BCC', 'AKIEC', 'VASC', 'DF']
TRAIN_COUNTS = [5029, 835, 824, 386, 245, 107, 86]
GROUPS = {'major': [0, 1, 2], 'minor': [5, 6]}


def outputs(right: float, seed: int, sizes, *, dimensions: int = 8):
    """Labels, probabilities and features of test images, about a share of which is right."""
    rng = np.random.default_rng(seed)
    classes = len(sizes)
    labels = np.repeat(np.arange(classes), sizes).astype(np.int32)
    is_right = rng.random(len(labels)) < right
    predicted = np.where(is_right, labels, rng.integers(classes, size=len(labels)))
    logits = rng.normal(size=(len(labels), classes))
    logits[np.arange(len(labels)), predicted] += 4
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    centres = 4 * np.random.default_rng(0).normal(size=(classes, dimensions))
    features = centres[labels] + rng.normal(size=(len(labels), dimensions)) / right
    return labels, probabilities.astype(np.float32), features.astype(np.float16)


def summary(labels, probabilities, groups, names) -> dict:
    confusion = np.zeros((len(names), len(names)), int)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    return summarize(probabilities, labels, confusion, groups, names)


def write_run(
    directory: Path,
    method: str = 'ce_crw',
    seed: int = 0,
    *,
    right: float = 0.7,
    dataset: str = 'skin7',
    model: str = 'resnet50',
    names=CLASS_NAMES,
    counts=TRAIN_COUNTS,
    groups=GROUPS,
    sizes=(60, 30, 30, 20, 15, 12, 10),
    predictions: bool = True,
    epochs: int = 2,
    **fields,
) -> dict:
    """Writes a finished run and returns its results; `fields` are config fields, with __ for dots.

    Stage 1 of a two-stage method has a share of `right` - 0.1 right, the last stage `right`.
    """
    directory.mkdir(parents=True)
    config = paper_config().lock()
    config.method, config.seed, config.data.name, config.model.name = method, seed, dataset, model
    config.update_from_flattened_dict({k.replace('__', '.'): v for k, v in fields.items()})
    (directory / 'config.json').write_text(json.dumps(config.to_dict()))

    two_stages = method.endswith(('_crw', '_crs'))
    shares = {'stage1': right - 0.1, 'stage2': right} if two_stages else {'stage1': right}
    stages, lines = [], []
    for stage, share in shares.items():
        labels, probabilities, features = outputs(share, 100 * seed + len(stages), sizes)
        of_stage = summary(labels, probabilities, groups, names)
        if stage == 'stage1' and method == 'sc_crw':  # trains no classifier
            of_stage = None
        on_validation = of_stage and of_stage | {'mcr_all': of_stage['mcr_all'] / 2}
        last = {'validation': on_validation, 'test': of_stage}
        stages.append({'name': stage, 'last': last, 'best': None})
        for epoch in range(1, epochs + 1):
            train = {'loss': 2 / epoch, 'classification': 1.5 / epoch, 'accuracy': share}
            if method == 'ce_sc_crw' and stage == 'stage1':
                train['metric'] = 50.0
            validation = {f'mcr_{g}': share * (1 - 0.5**epoch) for g in ('all', *groups)}
            validation['mcr_all'] /= 1.3
            line = {'stage': stage, 'epoch': epoch, 'train': train, 'validation': validation}
            lines.append(json.dumps(line))
    (directory / 'metrics.jsonl').write_text('\n'.join(lines) + '\n')
    results = {
        **{'dataset': dataset, 'method': method, 'model': model, 'seed': seed},
        'class_names': list(names),
        'train_counts': list(counts),
        'groups': {name: list(members) for name, members in groups.items()},
        'stages': stages,
        'final': stages[-1]['last']['test'],
        'pretrained': None,
    }
    (directory / 'results.json').write_text(json.dumps(results))
    if predictions:
        ids = np.array([f'image{i}' for i in range(len(labels))])
        arrays = {'labels': labels, 'probabilities': probabilities, 'features': features}
        np.savez_compressed(directory / 'predictions.npz', ids=ids, **arrays)
    return results


@pytest.fixture
def make_run(tmp_path):
    """`make_run('ce/0', 'ce', seed=0, ...)` writes a run below `tmp_path`/runs."""
    return lambda path, *args, **kwargs: write_run(tmp_path / 'runs' / path, *args, **kwargs)


@pytest.fixture
def sections(tmp_path):
    """`sections()` returns the sections and problems of the runs written so far."""
    return lambda: make_sections(read_runs(tmp_path / 'runs')[0])


@pytest.fixture
def section(sections):
    """`section()` returns the only section."""

    def only():
        (one,), _ = sections()
        return one

    return only


@pytest.fixture
def blank_figures(monkeypatch):
    """Figures are put together and saved as blank images, which is fast."""
    png = io.BytesIO()
    Image.new('L', (10, 10)).save(png, 'png')
    monkeypatch.setattr(drawing, 'save', lambda _, path: path.write_bytes(png.getvalue()))
    monkeypatch.setattr(drawing, 'tsne', lambda features: features[:, :2])
