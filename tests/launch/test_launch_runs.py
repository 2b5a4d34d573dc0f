"""The runs that launch/ starts: restarts after preemption, and the real script on the hosts."""

import pathlib
import subprocess
import time

import pytest

from tests.launch.launch_stubs import ROOT, Stubs

RUN = ('launch/tpu.sh', 'run', '--name=pod', '--zone=us-west4-a', '--topology=v5e:4x4')
FLAGS = ('--', '--config=configs/coco.py', '--workdir=gs://bucket/coco')


@pytest.fixture
def stubs(tmp_path):
    return Stubs(tmp_path / 'stubs')


def test_waits_in_the_queue(stubs):
    command = (
        'launch/tpu.sh',
        'create',
        '--name=pod',
        '--zone=z',
        '--topology=v6e:4x4',
        '--queued',
    )
    waiting = [
        ('describe', 0, 'WAITING_FOR_RESOURCES'),
        ('describe', 1, ''),
        ('describe', 0, 'ACTIVE'),
    ]
    assert stubs.run(*command, answers=waiting).returncode == 0
    assert [call[0] for call in stubs.calls].count('sleep') == 2
    result = stubs.run(*command, answers=[('describe', 0, 'FAILED')])
    assert result.returncode == 2 and 'FAILED' in result.stderr


def verbs(calls: list[list[str]]) -> list[str]:
    """Lists the verbs of the calls of gcloud, and the sleeps."""
    return [' '.join(call[4:5]) or call[0] for call in calls if call[0] in ('gcloud', 'sleep')]


def test_a_preempted_slice_is_recreated_and_the_run_resumes(stubs):
    answers = [
        ('ssh', 1, ''),
        ('describe', 1, ''),  # The network is down, so nothing is deleted.
        ('describe', 0, 'PREEMPTED'),
        ('describe', 1, ''),  # The slice has been deleted.
        ('create', 1, ''),  # There is no capacity.
        ('describe', 1, ''),
        ('describe', 0, 'CREATING'),
        ('describe', 0, 'READY'),
    ]
    assert stubs.run(*RUN, *FLAGS, answers=answers).returncode == 0
    assert verbs(stubs.calls) == (
        'ssh sleep describe sleep describe delete sleep describe create sleep describe create '
        'sleep describe sleep describe scp ssh ssh'.split()
    )
    assert stubs.calls[0] == stubs.calls[-1]


def test_restarts_of_a_healthy_slice_are_bounded_except_after_saving(stubs):
    command = (*RUN, '--restarts=2', *FLAGS)
    ready = [('describe', 0, 'READY')] * 9
    result = stubs.run(*command, answers=[('ssh', 75, '')] * 3 + [('ssh', 3, '')] * 3 + ready)
    assert result.returncode == 2 and 'failed 3 times, last with status 3' in result.stderr
    assert verbs(stubs.calls).count('ssh') == 6
    # One failure fewer is within the bound, and stops do not count.
    result = stubs.run(*command, answers=[('ssh', 75, '')] + [('ssh', 3, '')] * 2 + ready)
    assert result.returncode == 0


@pytest.mark.parametrize('status, is_requeued', [(0, False), (1, False), (75, True)])
def test_a_stopped_slurm_job_is_requeued(stubs, monkeypatch, status, is_requeued):
    monkeypatch.setenv('SLURM_JOB_ID', '42')
    result = stubs.run('launch/slurm_job.sh', *FLAGS, answers=[('srun', status, '')])
    assert result.returncode == status
    assert (['scontrol', 'requeue', '42'] in stubs.calls) == is_requeued


class Host:
    """A directory in which host_run.sh runs commands."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def start(self, *arguments):
        return subprocess.Popen(
            ['bash', 'launch/host_run.sh', f'--directory={self.folder}', *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def wait_for(self, text):
        deadline = time.monotonic() + 20
        while text not in ((self.folder / 'log.txt').read_text() if self.folder.exists() else ''):
            assert time.monotonic() < deadline, f'{text} is not in the log'
            time.sleep(0.05)


def test_a_host_shows_output_and_status(tmp_path):
    host = Host(tmp_path / 'run')
    for status in (0, 7):
        process = host.start(
            '--', 'bash', '-c', f'echo begin{status}; echo error >&2; exit {status}'
        )
        assert process.communicate(timeout=20)[0] == f'begin{status}\nerror\n'
        assert process.returncode == status
    assert (host.folder / 'log.txt').read_text() == 'begin0\nerror\nbegin7\nerror\n'


def test_a_run_outlives_its_connection_and_is_found_again(tmp_path):
    host = Host(tmp_path / 'run')
    go = tmp_path / 'go'
    command = (
        '--',
        'bash',
        '-c',
        f'echo first; until [ -e {go} ]; do sleep 0.05; done; echo last; exit 5',
    )
    first = host.start(*command)
    host.wait_for('first')
    first.kill()
    first.wait()
    second = host.start(*command)
    assert 'already running' in second.stdout.readline()
    go.touch()
    assert second.communicate(timeout=20)[0] == 'last\n'
    assert second.returncode == 5
    assert (host.folder / 'log.txt').read_text() == 'first\nlast\n'


def test_a_host_stops_a_run_with_sigterm(tmp_path):
    host = Host(tmp_path / 'run')
    assert host.start('--stop').communicate(timeout=20)[0] == 'nothing is running\n'
    process = host.start(
        '--',
        'bash',
        '-c',
        'trap "echo saved; exit 75" TERM; echo first; while :; do sleep 0.05; done',
    )
    host.wait_for('first')
    assert host.start('--stop').wait(timeout=20) == 0
    assert process.communicate(timeout=20)[0] == 'first\nsaved\nstopped by --stop\n'
    assert process.returncode == 0
    assert host.start('--stop').communicate(timeout=20)[0] == 'nothing is running\n'
