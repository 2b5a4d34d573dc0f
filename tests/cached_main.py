"""`pdl_jax train` for several CPU processes that share compiled programs, as on GPUs and TPUs.

On CPUs the cache key of a program depends on the process, so the program itself uses no cache
there.
"""

import sys

from jax._src import cache_key

from pdl_jax.commands.command_line import main
from pdl_jax.runtime import compiler_options

cache_key._hash_accelerator_config = cache_key._hash_devices
compiler_options.cache_programs = lambda workdir: None

if __name__ == '__main__':
    main(['train', *sys.argv[1:]])
