"""Work directories behind gs://, through the real clients, with a bucket served by this machine."""

import functools
import io
import json
import os
import threading

import numpy as np
import pytest
from bucket import Bucket, served
from commands import ROOT, Command, assert_refused, call, succeed
from PIL import Image

pytest.importorskip('gcsfs')
pytestmark = pytest.mark.slow

SMALL = [
    'model.options.stage_sizes=(1,)',
    'model.options.width=4',
    'stage1.epochs=3',
    'stage1.warmup_epochs=0',
    'stage2.epochs=2',
    'checkpoint_every=1',
]


@pytest.fixture
def bucket():
    return Bucket('bucket')


def set_environment(variables):
    os.environ.update(variables)


@pytest.fixture
def connect(bucket, tmp_path):
    """Gives a command the environment in which it finds the bucket, and a home of its own."""
    with served(bucket) as environment:
        variables = environment | {'HOME': str(tmp_path)}
        variables |= {'METRICLT_LOCAL_DATA': str(tmp_path / 'local')}
        yield functools.partial(set_environment, variables)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('remote')


def train_flags(folder, workdir, method='ce_crw'):
    fields = [*SMALL, f'data.data_dir={folder}/data']
    config = [f'--config={ROOT}/configs/digits_lt.py:{method}']
    return [*config, *(f'--config.{field}' for field in fields), f'--workdir={workdir}']


@pytest.fixture(scope='module')
def local(folder):
    """The run that the others must equal."""
    succeed('train', *train_flags(folder, folder / 'run'), '--config.figures=False')
    return folder / 'run'


def outcome(read):
    """What a run computed; `read` returns a file's bytes."""
    results = json.loads(read('results.json'))
    del results['seconds']
    with np.load(io.BytesIO(read('predictions.npz'))) as arrays:
        arrays = {name: arrays[name].tolist() for name in arrays}
    return results, arrays, read('metrics.jsonl').decode()


def assert_same_run(bucket, name, local):
    remote = outcome(lambda file: bucket.objects[f'{name}/{file}'][0])
    assert remote == outcome(lambda file: (local / file).read_bytes())


def committed(bucket, stage):
    """The steps of a stage that are complete."""
    names = [name.split('/') for name in bucket.objects]
    return sorted(
        int(parts[-2]) for parts in names if parts[-3:-2] == [stage] and 'commit' in parts[-1]
    )


def test_a_run_killed_in_the_middle_of_a_checkpoint_ends_like_a_local_one(
    bucket, connect, folder, local, tmp_path
):
    run = train_flags(folder, 'gs://bucket/some run/1')
    reached, steps = threading.Event(), set()

    def stall(name):  # from the second checkpoint's arrays on
        if '/stage1/' in name and '/variables/' in name and 'commit' not in name:
            steps.add(name.partition('/stage1/')[2].partition('/')[0])
            if len(steps) > 1:
                reached.set()
                threading.Event().wait()

    bucket.on_write = stall
    killed = Command('train', *run, before=connect)
    assert reached.wait(100)
    killed.process.kill()
    killed.finish()
    bucket.on_write = lambda name: None
    (complete,) = committed(bucket, 'stage1')
    assert any(f'/stage1/{2 * complete}/' in name for name in bucket.objects)

    output = succeed('train', *run, before=connect)
    assert f'stage1 resumes from step {complete}' in output
    assert_same_run(bucket, 'some run/1', local)
    figures = {name.rpartition('/')[2] for name in bucket.objects if '/figures/' in name}
    assert figures == {'training_curves.png', 'confusion_matrices.png', 'features.png'}
    assert not (ROOT / 'gs:').exists()

    before = dict(bucket.objects)
    assert 'is complete' in succeed('train', *run, before=connect)
    assert bucket.objects == before
    assert_refused(
        call('train', *run, '--config.seed=7', before=connect), 'gs://bucket/some run/1', 'seed'
    )
    use_the_run(connect, bucket, local, tmp_path)


def use_the_run(connect, bucket, local, tmp_path):
    """Evaluation, prediction and report are those of the local run."""
    for number in range(3):
        path = tmp_path / 'images' / f'{number}.png'
        path.parent.mkdir(exist_ok=True)
        Image.new('L', (9, 9), 80 * number).save(path)
        path = tmp_path / 'classes' / str(number) / 'a.png'
        path.parent.mkdir(parents=True)
        Image.new('L', (9, 9), 80 * number).save(path)
    other = ['--dataset=mine', f'--data_dir={tmp_path}/data']
    flags = ['--dataset=folder', '--name=mine', f'--source={tmp_path}/classes', other[1]]
    succeed('prepare_data', *flags)
    texts, tables = [], []
    for workdir, before in ((local, None), ('gs://bucket/some run/1', connect)):
        flags = [f'--workdir={workdir}', '--checkpoint=best', '--part=validation']
        texts.append(succeed('evaluate', *flags, before=before))
        texts[-1] += succeed('evaluate', flags[0], *other, before=before)
        output = tmp_path / f'{len(tables)}.csv'
        flags = [f'--workdir={workdir}', f'--images={tmp_path}/images', f'--output={output}']
        succeed('predict', *flags, before=before)
        tables.append(output.read_text())
    assert 'by their checksums' in texts[0]
    assert texts[0] == texts[1]
    assert tables[0] == tables[1]
    assert 'report.html' in succeed('report', '--runs=gs://bucket/some run', before=connect)
    page = bucket.objects['some run/report/report.html'][0].decode()
    results = json.loads((local / 'results.json').read_text())
    assert f'{100 * results["final"]["mcr_all"]:.2f}' in page


def test_rows_of_a_table_share_the_first_stage_in_a_bucket(bucket, connect, folder, local):
    flags = ['--dataset=digits_lt', '--table=2', '--methods=ce,ce_crw', '--seeds=1']
    flags += [f'--data_dir={folder}/data', '--workdir=gs://bucket/grid']
    flags += [f'--override={field}' for field in SMALL]
    output = succeed('reproduce', *flags, before=connect)
    assert 'stage 1 of ce/0' in output
    assert_same_run(bucket, 'grid/ce_crw/0', local)
    assert b'stage2 1/2' in bucket.objects['grid/ce_crw/0.log'][0]
    assert 'grid/report/report.html' in bucket.objects


@pytest.mark.parametrize('status', [401, 403, 404])
def test_storage_that_refuses_is_one_sentence_before_anything_is_done(
    bucket, connect, tmp_path, status
):
    bucket.refuse = status
    flags = train_flags(tmp_path, 'gs://bucket/run')
    assert_refused(call('train', *flags, before=connect), 'gs://bucket/run', 'credentials')
    assert not (tmp_path / 'data').exists()
    assert_refused(call('report', '--runs=gs://bucket/run', before=connect), 'gs://bucket/run')
    assert not bucket.objects


def test_a_bucket_that_does_not_exist_is_not_made(bucket, connect, tmp_path):
    process = call('train', *train_flags(tmp_path, 'gs://buckte/run'), before=connect)
    assert_refused(process, 'gs://buckte/run')
    process = call(
        'predict', '--workdir=gs://bucket/none', '--images=x', '--output=y', before=connect
    )
    assert_refused(process, 'gs://bucket/none', 'no config.json')
