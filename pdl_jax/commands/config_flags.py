"""What the commands that take --config=FILE share: mistakes on the command line become one line each."""

import sys

from absl import flags


def parse_flags(argv: list[str], *, command: str) -> list[str]:
    """Parses the command line; a misspelt field of the configuration is answered with the right one.

    Args:
      argv: of the process.
      command: whose --help lists the flags, such as 'pdl_jax.main'.

    Returns:
      The arguments that are no flags.
    """
    try:
        rest = flags.FLAGS(argv)
        # That its file cannot be read shows where the configuration is first looked at.
        _ = flags.FLAGS.config.is_locked
        return rest
    except flags.Error as error:
        message = str(error)
    except OSError as error:
        # ml_collections wraps what happened to the file in lists of the paths that it tried.
        message = f'the configuration cannot be read: {str(error).strip().splitlines()[-1].strip()}'
    except (AttributeError, KeyError) as error:
        # ml_collections words it: 'batch_siz' Did you mean "batch_size" instead of "batch_siz"?
        if 'Did you mean' not in str(error) and not any('--config.' in a for a in argv):
            raise
        # AttributeError wraps it in another repr.
        words = str(error.args[0]).replace('\\n', ' ').replace('\n', ' ').replace('\\', '')
        message = f'unknown field of the configuration: {words}'
    sys.exit(f'{message}\nSee `python -m {command} --help`; configs/common.py lists all fields.')
