"""The launch scripts, by their dry runs: what they would run, quoted as it must be."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from fi_jax import main as _main  # its flags are those the scripts must use
from fi_jax.run.faults import Exit

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*ROOT.glob('launch/*.sh'), ROOT / 'launch' / 'slurm.sbatch'])
TRAIN = ['--config=configs/stage1.py:res=128', "--workdir=/runs/a b's"]


def dry(name, *args, **env):
    """(exit code, printed commands as words, everything printed) of a script's dry run."""
    done = subprocess.run(
        ['bash', f'launch/{name}', *args], cwd=ROOT, capture_output=True, text=True, check=False,
        env={'PATH': '/usr/bin:/bin', **env},
    )  # fmt: skip
    lines = [line[2:] for line in done.stdout.splitlines() if line.startswith('+ ')]
    return done.returncode, [shlex.split(line) for line in lines], done.stdout + done.stderr


def flags_of(words):
    return {word.partition('=')[0].lstrip('-') for word in words if word.startswith('--')}


def test_one_node_runs_the_program_with_its_flags_whole():
    code, commands, _ = dry('gpu_node.sh', '--dry_run', *TRAIN)
    assert code == 0
    assert commands == [['.venv/bin/python', '-m', 'fi_jax.main', *TRAIN]]


def test_one_gpu_trains_the_flow_then_distils_it_from_there():
    code, commands, _ = dry(
        'gpu_flow.sh',
        '--dry_run',
        FACES='--config.data.source=zip --config.data.path=a.zip',
        OUT='o',
    )
    assert code == 0
    first, second, *exports = commands
    assert 'stage=flow' in first[3] and 'stage=distill' in second[3]
    assert {'--config.data.path=a.zip', '--workdir=o/flow'} <= set(first)
    assert '--config.warm_start=o/flow' in second
    assert sum('export' in words for words in exports) == 2
    code, _, said = dry('gpu_flow.sh', '--dry_run', OUT='o')
    assert code == 1 and 'FACES is missing' in said


def test_two_processes_share_an_address_and_differ_in_their_number():
    code, commands, _ = dry('local_two_process.sh', '--dry_run', *TRAIN, PORT='1234')
    assert code == 0
    numbers = [word for command in commands for word in command if 'process_id' in word]
    assert sorted(numbers) == ['--process_id=0', '--process_id=1']
    for command in commands:
        assert {'--coordinator=localhost:1234', '--num_processes=2', *TRAIN} <= set(command)
        own = {name for name in flags_of(command) if not name.startswith('config')}
        assert own <= set(_main.FLAGS)  # no flag that the program lacks


def test_slurm_starts_a_process_a_task():
    code, commands, _ = dry('slurm.sbatch', '--dry_run', *TRAIN)
    assert code == 0
    assert commands[0][0] == 'srun' and commands[0][-2:] == TRAIN
    assert '--multihost' in commands[0]
    head = (ROOT / 'launch' / 'slurm.sbatch').read_text()
    assert '#SBATCH --signal=TERM@300' in head and '#SBATCH --requeue' in head


def test_a_tpu_slice_is_made_set_up_used_and_given_back():
    code, ((*create,),), _ = dry(
        'tpu_pod.sh', '--dry_run', 'create', 'pod', 'us-west4-a', 'v5litepod-16', '--spot'
    )
    assert code == 0
    assert create[:6] == ['gcloud', 'compute', 'tpus', 'queued-resources', 'create', 'pod']
    assert {'--accelerator-type=v5litepod-16', '--spot', '--zone=us-west4-a'} <= set(create)
    _, ((*setup,),), _ = dry('tpu_pod.sh', '--dry_run', 'setup', 'pod', 'z', 'https://x/fi_jax')
    assert 'constraints.txt' in setup[-1] and '--worker=all' in setup
    _, ((*train,),), _ = dry('tpu_pod.sh', '--dry_run', 'train', 'pod', 'z', *TRAIN)
    remote = shlex.split(train[-1].removeprefix('--command='))
    assert remote[-2:] == TRAIN and '--multihost' in remote
    _, ((*delete,),), _ = dry('tpu_pod.sh', '--dry_run', 'delete', 'pod', 'z')
    assert 'delete' in delete


@pytest.mark.parametrize(
    ('script', 'args', 'words'),
    [
        ('gpu_node.sh', [], '--config is missing'),
        ('local_two_process.sh', ['--dry_run'], '--config is missing'),
        ('slurm.sbatch', ['--dry_run'], '--config is missing'),
        ('tpu_pod.sh', ['--dry_run', 'train', 'pod'], 'ZONE is missing'),
        ('tpu_pod.sh', ['--dry_run', 'start', 'pod', 'zone'], 'what is start?'),
        ('gke.sh', ['--dry_run', 'name'], 'IMAGE is missing'),
    ],
)
def test_a_missing_argument_is_named_and_nothing_runs(script, args, words):
    code, commands, printed = dry(script, *args)
    assert code == 1 and commands == []
    assert (words in printed and f'launch/{script}' in printed) or 'start?' in printed


def job_set():
    code, _, printed = dry('gke.sh', '--dry_run', 'run-1', 'registry/fi_jax:tpu', *TRAIN)
    assert code == 0, printed
    return yaml.safe_load(printed)


def test_the_job_set_runs_every_host_of_the_slice_and_restarts_what_a_restart_mends():
    manifest = job_set()
    (replicated,) = manifest['spec']['replicatedJobs']
    job = replicated['template']['spec']
    pod = job['template']['spec']
    (container,) = pod['containers']
    chips = [int(n) for n in pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x')]
    a_host = int(container['resources']['limits']['google.com/tpu'])
    assert job['parallelism'] == job['completions'] == chips[0] * chips[1] / a_host
    assert container['command'] == ['python', '-m', 'fi_jax.main', '--multihost', *TRAIN]
    (rule,) = job['podFailurePolicy']['rules']
    final = set(rule['onExitCodes']['values'])
    assert final == {Exit.USER_ERROR, Exit.PARTIAL, Exit.NON_FINITE}
    assert rule['onExitCodes']['containerName'] == container['name']
    # A host saves within the time it is given.
    assert pod['terminationGracePeriodSeconds'] >= 60


def test_the_job_of_the_set_keeps_to_the_schema_of_kubernetes():
    validate = pytest.importorskip('kubernetes_validate')
    job = job_set()['spec']['replicatedJobs'][0]['template']
    whole = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'slice'}, **job}
    validate.validate(json.loads(json.dumps(whole)), '1.33', strict=True)


def test_the_set_keeps_to_the_schema_of_job_sets():
    """The fields that its definition, jobset.x-k8s.io/v1alpha2, knows and those it demands."""
    manifest = job_set()
    assert set(manifest) == {'apiVersion', 'kind', 'metadata', 'spec'}
    assert (manifest['apiVersion'], manifest['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    assert re.fullmatch(r'[a-z0-9]([-a-z0-9]*[a-z0-9])?', manifest['metadata']['name'])
    spec = manifest['spec']
    assert set(spec) == {'failurePolicy', 'replicatedJobs'}
    assert set(spec['failurePolicy']) == {'maxRestarts', 'rules'}
    for rule in spec['failurePolicy']['rules']:
        assert set(rule) == {'name', 'action', 'onJobFailureReasons'}
        assert re.fullmatch(r'[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?', rule['name'])
        assert rule['action'] in ('FailJobSet', 'RestartJobSet')
    for job in spec['replicatedJobs']:
        assert set(job) == {'name', 'replicas', 'template'}
        assert set(job['template']) == {'spec'}


def test_xpk_gets_the_same_command():
    code, ((*command,),), _ = dry('gke.sh', '--dry_run', 'r', 'i', *TRAIN, XPK_CLUSTER='c')
    assert code == 0 and command[:3] == ['xpk', 'workload', 'create']
    inner = next(w for w in command if w.startswith('--command=')).removeprefix('--command=')
    assert shlex.split(inner)[-2:] == TRAIN


def test_the_container_has_the_tested_versions_and_the_extras_exist():
    text = (ROOT / 'launch' / 'Containerfile').read_text()
    assert re.search(r'^FROM python:3\.11\.\d+', text, re.M)
    assert '--constraint constraints.txt' in text
    extras = (ROOT / 'pyproject.toml').read_text()
    for name in re.findall(r'EXTRA=(\w+)', text):
        assert re.search(rf'^{name} = \[', extras, re.M), name
    for path in re.findall(r'^COPY (.*) \S+$', text, re.M):
        assert all((ROOT / p).exists() for p in path.split())


def test_the_sky_task_is_a_task():
    task = yaml.safe_load((ROOT / 'launch' / 'skypilot.yaml').read_text())
    assert {'resources', 'setup', 'run', 'envs'} <= set(task)
    assert 'fi_jax.main $FLAGS' in task['run']


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse_and_pass_shellcheck_where_it_is(script):
    subprocess.run(['bash', '-n', script], check=True)
    if shutil.which('shellcheck'):
        done = subprocess.run(
            ['shellcheck', '-x', f'launch/{script.name}'], cwd=ROOT, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
