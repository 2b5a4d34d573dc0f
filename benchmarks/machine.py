"""The machine of the results, and its load by other programs."""

import os
import pathlib
import platform
import re
import time
from collections.abc import Sequence
from typing import Any


def describe() -> dict[str, Any]:
    """Describes the processor, the cores this process may use, the memory and Python."""
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
    """Meter of the share of the cores that other programs use.

    Args:
      process_ids: processes that do not count as other programs, beside this one.
    """

    def __init__(self, process_ids: Sequence[int]):
        self._process_ids = [os.getpid(), *process_ids]
        self._start = self._read()

    def read_share(self) -> float:
        """Returns the share of all cores since construction, in [0, 1]."""
        busy, own, now = (b - a for a, b in zip(self._start, self._read(), strict=True))
        return min(max((busy - own) / (now * (os.cpu_count() or 1)), 0.0), 1.0)

    def _read(self):
        ticks = os.sysconf('SC_CLK_TCK')
        user, nice, system, _, _, interrupt, soft_interrupt, steal = (
            int(n) for n in pathlib.Path('/proc/stat').read_text().split('\n', 1)[0].split()[1:9]
        )
        own = 0
        for process_id in self._process_ids:
            # Fields start after the name, which may hold blanks. These four are the times of the
            # process and of its finished children.
            fields = pathlib.Path(f'/proc/{process_id}/stat').read_text().rpartition(')')[2].split()
            own += sum(int(field) for field in fields[11:15])
        return (
            (user + nice + system + interrupt + soft_interrupt + steal) / ticks,
            own / ticks,
            time.monotonic(),
        )
