"""The machine that results are from, and how busy others keep it."""

import os
import pathlib
import platform
import re
import time
from collections.abc import Sequence
from typing import Any


def describe() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, Python."""
    cpus = pathlib.Path('/proc/cpuinfo').read_text()
    memory = pathlib.Path('/proc/meminfo').read_text()
    name = re.search(r'model name\s*:\s*(.+)', cpus)
    features = re.search(r'flags\s*:\s*(.+)', cpus)
    wanted = ('avx2', 'avx512f', 'avx512_bf16', 'amx_bf16')
    return {
        'processor': name.group(1) if name else platform.machine(),
        'features': [flag for flag in wanted if features and flag in features.group(1).split()],
        'num_cores': len(os.sched_getaffinity(0)),
        'memory_bytes': 1024 * int(re.search(r'MemTotal:\s+(\d+)', memory).group(1)),
        'python': platform.python_version(),
    }


class OtherWork:
    """Measures which part of the cores other programs take.

    Args:
      process_ids: of the programs that are not others; this one is not either.
    """

    def __init__(self, process_ids: Sequence[int]):
        self._process_ids = [os.getpid(), *process_ids]
        self._start = self._read()

    def read_share(self) -> float:
        """Of all cores, since the beginning, from 0 to 1."""
        busy, own, now = (b - a for a, b in zip(self._start, self._read(), strict=True))
        return min(max((busy - own) / (now * (os.cpu_count() or 1)), 0.0), 1.0)

    def _read(self):
        ticks = os.sysconf('SC_CLK_TCK')
        user, nice, system, _, _, interrupt, soft_interrupt, steal = (
            int(n) for n in pathlib.Path('/proc/stat').read_text().split('\n', 1)[0].split()[1:9]
        )
        own = 0
        for process_id in self._process_ids:
            # Behind the name, which may hold blanks: own time and that of children that have ended.
            fields = pathlib.Path(f'/proc/{process_id}/stat').read_text().rpartition(')')[2].split()
            own += sum(int(field) for field in fields[11:15])
        return (
            (user + nice + system + interrupt + soft_interrupt + steal) / ticks,
            own / ticks,
            time.monotonic(),
        )
