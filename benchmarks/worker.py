"""Worker process that holds the program of one side of a case; `child.Child` is its client.

Commands and replies are lines of JSON on stdin and stdout.
"""

import importlib
import json
import os
import sys
import time
import traceback

import numpy as np

from benchmarks import frameworks, memory
from benchmarks.program import Setup


class Worker:
    """Commands of the worker, one per public method.

    Args:
      side: 'ours', or the framework of the peer.
      suite: suite of the case; '' for none, without which `prepare` is not available.
      mode: see `Setup`.
      device: 'cpu' or 'gpu'.
    """

    def __init__(self, side: str, suite: str, mode: str, device: str):
        self._mode, self._device = mode, device
        self._framework = frameworks.start(side, device)
        self._module = None
        if suite:
            has_own = side in ('tensorflow', 'onnxruntime', 'openvino')
            peer = f'peers.{side}_{suite}' if has_own else f'peers.{suite}'
            name = f'ours.{suite}' if side == 'ours' else peer
            self._module = importlib.import_module(f'benchmarks.{name}')
        memory.reset_peak()
        self._baseline = memory.read_resident_bytes()
        self._prepare_peak = None
        self._program = None

    def describe(self):
        return self._framework.describe()

    def measure_products(self, dtype, size):
        return {'flops_per_second': self._framework.measure_products(dtype, size)}

    def prepare(self, arguments, files):
        program = self._module.prepare(Setup(arguments, files, self._mode, self._device))
        self._prepare_peak = self._read_peak()
        memory.reset_peak()
        self._program = program
        fields = ('compile_seconds', 'argument_bytes', 'temp_bytes', 'flops', 'num_items')
        return {field: getattr(program, field) for field in fields}

    def time(self, min_seconds):
        """Returns the median of as many runs as take `min_seconds` together, at least one."""
        seconds = []
        with self._program.open():
            while not seconds or sum(seconds) < min_seconds:
                start = time.perf_counter()
                self._program.run()
                seconds.append(time.perf_counter() - start)
        return {'seconds': float(np.median(seconds))}

    def read_memory(self):
        """Returns peaks in bytes; on a CPU beyond the memory of the process after its imports."""
        return {'peak_bytes': self._read_peak(), 'prepare_peak_bytes': self._prepare_peak}

    def read_facts(self):
        return self._program.get_facts()

    def save_outputs(self, path):
        np.savez(path, **self._program.get_outputs())
        return {}

    def _read_peak(self):
        on_device = self._framework.read_peak_bytes()
        return (
            memory.read_resident_bytes('VmHWM') - self._baseline if on_device is None else on_device
        )


def main() -> None:
    side, suite, mode, device = sys.argv[1:]
    # Output of libraries goes to stderr, so that only replies reach stdout.
    replies = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    worker = None
    for line in sys.stdin:
        command = json.loads(line)
        try:
            worker = worker or Worker(side, suite, mode, device)
            reply = getattr(worker, command.pop('do'))(**command)
        except Exception:
            reply = {'error': traceback.format_exc()}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == '__main__':
    main()
