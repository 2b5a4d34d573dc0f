"""Flags of XLA that make it compile quickly, for programs that run a few times."""

import jaxlib

XLA_FLAGS = '--xla_backend_optimization_level=0'
# Options for programs whose results on different meshes are compared, which the flag below changes.
EXACT: dict[str, bool | int] = {'xla_backend_optimization_level': 0}
if jaxlib.__version__.startswith('0.10.'):
    # Halves the time again. Later versions have no such flag, and XLA aborts at unknown ones.
    XLA_FLAGS += ' --xla_cpu_use_fusion_emitters=false'
    EXACT['xla_cpu_use_fusion_emitters'] = True
