"""Stubs of the commands of the clouds for the tests of launch/; they record their calls."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]

STUB = """#!{python} -SE
import json, os, pathlib, sys
folder = pathlib.Path(os.environ['STUBS'])
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open(folder / 'calls', 'a') as file:
    file.write(json.dumps(call) + '\\n')
answers = json.loads((folder / 'answers').read_text())
for index, (words, status, output) in enumerate(answers):
    if set(words.split()) <= set(call):
        del answers[index]
        (folder / 'answers').write_text(json.dumps(answers))
        print(output)
        sys.exit(status)
"""


class Stubs:
    """Commands that record their calls and succeed, unless an answer sets another status."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        folder.mkdir()
        for name in 'gcloud git mkdir sleep sbatch srun scontrol docker kubectl'.split():
            (folder / name).write_text(STUB.format(python=sys.executable))
            (folder / name).chmod(0o755)

    @property
    def env(self) -> dict[str, str]:
        return {
            **os.environ,
            'PATH': f'{self.folder}:{os.environ["PATH"]}',
            'STUBS': str(self.folder),
        }

    @property
    def calls(self) -> list[list[str]]:
        """Calls of the last run, each with the name of its command."""
        return [json.loads(line) for line in (self.folder / 'calls').read_text().splitlines()]

    def run(self, *command: str, answers=()) -> subprocess.CompletedProcess:
        """Runs a script; answers are (words of the call, status, output), each used once."""
        (self.folder / 'answers').write_text(json.dumps(answers))
        (self.folder / 'calls').write_text('')
        return subprocess.run(
            ['bash', *command], cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=60
        )
