"""The training program: `python -m pdl_jax.main --config=configs/coco.py --workdir=DIR`.

The same as `pdl_jax train`, with `--mode=evaluate` also `pdl_jax evaluate`.
"""

import sys

from pdl_jax.commands.command_line import main

if __name__ == '__main__':
    main(['train', *sys.argv[1:]], program='python -m pdl_jax.main')
