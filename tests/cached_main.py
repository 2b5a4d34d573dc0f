"""`python -m pdl_jax.main` for several CPU processes that share compiled programs, as JAX lets those of GPUs and TPUs do.

On CPUs the name of a program in the cache depends on the process, for which reason pdl_jax.main uses none there.
"""

from jax._src import cache_key

from pdl_jax import main

cache_key._hash_accelerator_config = cache_key._hash_devices
main.keep_compiled_programs = lambda workdir: None

if __name__ == '__main__':
    main.run()
