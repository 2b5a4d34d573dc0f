"""The front door: finds a command, parses its flags, and words mistakes as one line each."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

# Command -> module of this package with SUMMARY, EXAMPLES, add_flags(parser) and run(flags). They
# import what they need when they run, so that --help answers at once.
COMMANDS = {
    'train': 'train',
    'evaluate': 'evaluate',
    'report': 'report',
    'predict': 'predict',
    'export': 'export',
    'demo': 'demo',
    'video': 'video',
    'check': 'check',
    'prepare': 'prepare',
    'suggest': 'suggest',
    'weights': 'weights',
    'convert': 'convert',
    'pack': 'pack',
    'push': 'push',
    'pull': 'pull',
    'score': 'score',
    'propose': 'propose',
    'runs': 'runs',
    'plan': 'plan',
    'search': 'search',
    'summary': 'summary',
}
ALLOW_CODE_HELP = 'import the modules that the checkpoint names, from here: trust it first'
_USAGE = 'pdl_jax COMMAND [--flag=value ...]'


class Parser(argparse.ArgumentParser):
    """A parser that ends with one line, and suggests the flag that was probably meant."""

    def error(self, message: str) -> NoReturn:
        """Ends the program with a line on standard error and status 2."""
        prefix = 'unrecognized arguments: '
        if message.startswith(prefix):
            words = message.removeprefix(prefix).split()
            flags = [flag for action in self._actions for flag in action.option_strings]
            name = words[0].split('=')[0]
            close = difflib.get_close_matches(name, flags, 1)
            hint = f': did you mean {close[0]}?' if close else f'; see {self.prog} --help'
            message = f'unknown argument {words[0]}{hint}'
        self.exit(2, f'error: {message}\n')


def add_switch(parser: Any, name: str, *, default: bool | None = False, help: str) -> None:
    """Adds a boolean flag: --NAME, --NAME=true, --NAME=false, --noNAME.

    Args:
      parser: a parser or a group of one.
      name: without dashes.
      default: value where the flag is not given.
      help: one line.
    """
    parser.add_argument(
        f'--{name}',
        f'--no{name}',
        action=_SwitchAction,
        nargs='?',
        default=default,
        metavar='BOOL',
        help=help,
    )


class _SwitchAction(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        words = {'true': True, '1': True, 'false': False, '0': False}
        value = True if values is None else words.get(str(values).lower())
        if value is None:
            parser.error(f'{option_string}={values} must be true or false')
        is_negated = option_string == self.option_strings[1]
        setattr(namespace, self.dest, value != is_negated)


def main(arguments: Sequence[str] | None = None, *, program: str = '') -> None:
    """Runs a command.

    Args:
      arguments: the command and its flags; None takes those of the process.
      program: how the user called it, for the help; by default `pdl_jax COMMAND`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ('-h', '--help', 'help'):
        print(_list_commands())
        return
    name, *rest = words
    if name == '--version':
        import pdl_jax

        print(pdl_jax.__version__)
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, 1)
        hint = f'did you mean {close[0]}?' if close else f'there are {", ".join(COMMANDS)}'
        _fail(f'unknown command {name}: {hint}', 2)
    module = importlib.import_module(f'pdl_jax.commands.{COMMANDS[name]}')
    flags = _parse(module, rest, program or f'pdl_jax {name}')
    if flags.debug:
        module.run(flags)
        return
    try:
        module.run(flags)
    except (ImportError, OSError, ValueError) as error:
        _fail(str(error), 2)
    except (FloatingPointError, RuntimeError) as error:
        _fail(str(error), 1)
    except MemoryError:
        _fail('the memory of this machine is too small: give smaller images or batches', 1)
    except KeyboardInterrupt:
        _fail('interrupted', 130)


def _parse(module: Any, words: list[str], program: str) -> argparse.Namespace:
    parser = Parser(
        prog=program,
        description=module.__doc__,
        epilog=f'examples:\n{module.EXAMPLES}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_flags(parser)
    add_switch(parser, 'debug', help='show where an error comes from')
    overrides = []
    if any('--config' in action.option_strings for action in parser._actions):
        overrides, words = _split_overrides(words)
    flags = parser.parse_args(_split_lists(parser, words))
    flags.config_overrides = overrides
    # Modules name the schemes that they take besides gs://.
    known = tuple(f'{scheme}://' for scheme in getattr(module, 'SCHEMES', ()))
    others = [word for word in words if not known or not word.startswith(known)]
    _refuse_addresses(parser, [*others, *overrides])
    return flags


def _refuse_addresses(parser: Parser, words: list[str]) -> None:
    """Ends the program before it works for results that it cannot write."""
    from pdl_jax.storage.paths import refuse_address

    for word in words:
        try:
            refuse_address(word.partition('=')[2] if word.startswith('-') else word)
        except ValueError as error:
            parser.error(str(error))


def _split_lists(parser: argparse.ArgumentParser, words: list[str]) -> list[str]:
    """Splits --flag=value of flags that take several values, so that more may follow."""
    lists = {
        flag for action in parser._actions if action.nargs == '+' for flag in action.option_strings
    }
    split = []
    for word in words:
        flag, equals, value = word.partition('=')
        # A value that begins with a dash would be taken for a flag.
        is_split = flag in lists and equals and not value.startswith('-')
        split += [flag, value] if is_split else [word]
    return split


def _split_overrides(words: list[str]) -> tuple[list[str], list[str]]:
    """Separates --config.field=value, or --config.field value, from the other arguments."""
    overrides, others = [], []
    needs_value = False
    for word in words:
        if needs_value and not word.startswith('--'):
            overrides[-1] += f'={word}'
        elif word.startswith(('--config.', '--noconfig.')):
            overrides.append(word)
        else:
            others.append(word)
        # A boolean field may stand alone.
        needs_value = word.startswith('--config.') and '=' not in word
    return overrides, others


def _list_commands() -> str:
    summaries = {
        name: importlib.import_module(f'pdl_jax.commands.{module}').SUMMARY
        for name, module in COMMANDS.items()
    }
    width = max(map(len, summaries))
    lines = [f'usage: {_USAGE}', '', 'commands:']
    lines += [f'  {name:{width}}  {summary}' for name, summary in summaries.items()]
    return '\n'.join([*lines, '', '`pdl_jax COMMAND --help` lists the flags of one.'])


def _fail(message: str, status: int) -> NoReturn:
    sys.stdout.flush()
    print(f'error: {message}', file=sys.stderr, flush=True)
    sys.exit(status)
