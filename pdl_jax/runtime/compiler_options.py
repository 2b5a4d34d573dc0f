"""How the compiler is told to go about a program."""


def train_compiler_options(platform: str) -> dict[str, str]:
    """What to give `jax.jit` for a train step on 'cpu', 'gpu' or 'tpu'.

    XLA:CPU orders operations so that as many as possible could run side by side. Of a train step it then keeps two thirds more in
    memory than in the order that needs least, and touching new memory takes time: that of the R50 is a sixth slower. Programs
    without gradients gain nothing, some need more memory.
    """
    if platform == 'cpu':
        return {'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'}
    return {}


def single_use_compiler_options(platform: str) -> dict[str, str]:
    """What to give `jax.jit` for a program that runs once: on 'cpu' LLVM would optimise for longer than it saves."""
    return {'xla_backend_optimization_level': '1'} if platform == 'cpu' else {}
