"""Converts published weights to a checkpoint that evaluation, prediction and training start from.

    python -m pdl_jax.convert --from=bowenc0221 --input=panoptic_deeplab_R50_os32_cityscapes.pth --output=runs/bowenc0221_r50
    python -m pdl_jax.commands.predict --checkpoint=runs/bowenc0221_r50 --images='photos/*.jpg' --output=predictions

Whole networks become a checkpoint to predict and to evaluate with. Files that hold a part, such as a backbone, become one that
only training starts from. Everything in the file and in the network is accounted for: what is loaded, what is ignored and why,
what is missing.
"""

import argparse
from collections.abc import Sequence

from pdl_jax.config import make_model_options
from pdl_jax.convert import write
from pdl_jax.convert.conversion import (
    Conversion,
    check_account,
    choose_network,
    guess_network,
    load,
)
from pdl_jax.convert.readers import read_file
from pdl_jax.convert.rules import Account
from pdl_jax.convert.sources import SOURCES


def convert(
    source_name: str,
    file: str,
    output: str,
    *,
    preset: str = '',
    config_file: str = '',
    dataset: str = '',
    is_unexpected_allowed: bool = False,
    is_missing_allowed: bool = False,
) -> Conversion:
    """Converts a file; prints the account of it.

    Args:
      source_name: a key of `SOURCES`.
      file: see `readers.read_file`.
      output: directory of the checkpoint, local or gs://.
      preset: which network it is; '' finds it by keys and shapes, or takes that of the configuration.
      config_file: whose data, model and post-processing the checkpoint keeps; '' takes the project's for the dataset.
      dataset: see `write.make_spec`; '' finds it by the number of classes.
      is_unexpected_allowed: whether keys that fit nowhere are left out.
      is_missing_allowed: whether variables that the file does not have are left out.

    Raises:
      ImportError: the framework that reads the file is not installed.
      OSError: a file is missing or cannot be written.
      ValueError: the file is damaged or does not fit.
    """
    source = SOURCES[source_name]
    write.check_output(output)
    contents = read_file(file)
    config = write.load_config(config_file) if config_file else None
    if config is not None:
        config.model.preset = preset or config.model.preset
        conversion = choose_network(
            contents, source, config.model.preset, make_model_options(config)
        )
    elif preset:
        conversion = choose_network(contents, source, preset)
    else:
        conversion = guess_network(contents, source)
    print(format_account(conversion.account))
    what = 'a backbone' if conversion.is_backbone_only else f'{conversion.num_classes} classes'
    print(f'{file} is {conversion.network.name}, {what}')
    check_account(
        conversion,
        is_unexpected_allowed=is_unexpected_allowed,
        is_missing_allowed=is_missing_allowed,
    )
    spec = None
    if not write.is_partial(conversion):
        dataset = dataset or write.find_dataset(conversion.num_classes)
        spec = write.make_spec(dataset, conversion.num_classes)
        config = config or write.load_test_config(dataset, source)
    variables = load(conversion, contents)
    description = write.describe(conversion, variables, source, file=file, config=config, spec=spec)
    write.write_checkpoint(output, variables, description)
    print(f'wrote {output}')
    return conversion


def format_account(account: Account) -> str:
    """All lists of an account, then their lengths."""
    num_ignored = sum(map(len, account.ignored.values()))
    lines = [f'loaded: {origin.key} -> {path}' for path, origin in account.loaded.items()]
    lines += [
        f'ignored: {key} ({reason})' for reason, keys in account.ignored.items() for key in keys
    ]
    lines += [f'unexpected: {key} ({why})' for key, why in account.unexpected.items()]
    lines += [f'missing: {path}' for path in account.missing]
    lines += [f'wrong shape: {mismatch}' for mismatch in account.mismatched]
    lines += [f'ignored {len(keys)}: {reason}' for reason, keys in account.ignored.items()]
    lines.append(
        f'loaded {len(account.loaded)}, ignored {num_ignored}, unexpected {len(account.unexpected)}, '
        f'missing {len(account.missing)}, of wrong shape {len(account.mismatched)}'
    )
    return '\n'.join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; `python -m pdl_jax.convert --help` lists the flags."""
    parser = argparse.ArgumentParser(
        prog='python -m pdl_jax.convert',
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        '--from',
        required=True,
        choices=SOURCES,
        dest='source',
        help='the program that published the weights',
    )
    parser.add_argument(
        '--input',
        required=True,
        help='a file of PyTorch, .safetensors, .pkl of detectron2, .npz, or the prefix of a TensorFlow checkpoint (ckpt-1)',
    )
    parser.add_argument(
        '--output', required=True, help='directory of the checkpoint, local or gs://'
    )
    parser.add_argument(
        '--preset',
        default='',
        help='the network, where keys and shapes do not tell (output stride)',
    )
    parser.add_argument(
        '--config', default='', help="configuration file (default: the project's for the dataset)"
    )
    parser.add_argument(
        '--dataset',
        default='',
        help='cityscapes, coco, voc or the directory of prepared data (default: by the number of classes)',
    )
    parser.add_argument(
        '--allow_unexpected', action='store_true', help='leave out keys that fit nowhere'
    )
    parser.add_argument(
        '--allow_missing',
        action='store_true',
        help='leave out variables that the file does not have',
    )
    flags = parser.parse_args(arguments)
    try:
        convert(
            flags.source,
            flags.input,
            flags.output,
            preset=flags.preset,
            config_file=flags.config,
            dataset=flags.dataset,
            is_unexpected_allowed=flags.allow_unexpected,
            is_missing_allowed=flags.allow_missing,
        )
    except (ImportError, OSError, ValueError) as error:
        parser.exit(1, f'error: {error}\n')


if __name__ == '__main__':
    main()
