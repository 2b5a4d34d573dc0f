"""Lists the networks that come with the package, and the published checkpoints to convert.

With a name, prints the model card of a network of the package, or all that is known of a published
checkpoint. Nothing is downloaded: each entry has the page that links to the file.
"""

import argparse
import difflib
import json

from pdl_jax.commands.command_line import add_switch

SUMMARY = 'networks that come with the package, and published ones to convert'
EXAMPLES = """\
  pdl_jax weights
  pdl_jax weights resnet50_os32_panoptic_deeplab_coco_train_2
  pdl_jax weights --json"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command."""
    parser.add_argument('name', nargs='?', default='', help='one of them (default: list all)')
    add_switch(parser, 'json', help='print JSON')


def run(flags: argparse.Namespace) -> None:
    """Runs the command."""
    if flags.name:
        _print_one(flags.name, is_json=flags.json)
        return
    from pdl_jax.convert.publication import format_list, to_json
    from pdl_jax.convert.published import PUBLISHED
    from pdl_jax.storage.shipped import list_shipped, read_card

    shipped = {name: read_card(name) for name in list_shipped()}
    if flags.json:
        cards = [{'name': name, 'card': card} for name, card in shipped.items()]
        published = [to_json(item) for item in PUBLISHED]
        print(json.dumps({'shipped': cards, 'published': published}, indent=2))
        return
    if shipped:
        width = max(map(len, shipped))
        print('networks that come with the package, for --checkpoint=NAME')
        for name, card in shipped.items():
            print(f'  {name:{width}}  {_find_summary(card)}')
        print()
    print('published checkpoints: download from the page, then convert\n')
    print(format_list(PUBLISHED))


def _print_one(name: str, *, is_json: bool) -> None:
    """Prints a card or an entry.

    Raises:
      ValueError: there is no such network, or it is not converted.
    """
    from pdl_jax.convert.publication import format_one, to_json
    from pdl_jax.convert.published import PUBLISHED
    from pdl_jax.convert.unreadable import UNREADABLE
    from pdl_jax.storage.shipped import list_shipped, read_card

    if name in list_shipped():
        card = read_card(name)
        print(json.dumps({'name': name, 'card': card}, indent=2) if is_json else card.rstrip())
        return
    for item in PUBLISHED:
        if name in (item.name, item.file):
            print(json.dumps(to_json(item), indent=2) if is_json else format_one(item))
            return
    for item in UNREADABLE:
        if name in item.files:
            raise ValueError(f'{name} is not converted: {item.reason}; its page is {item.page}')
    known = [*list_shipped(), *(item.name for item in PUBLISHED)]
    close = difflib.get_close_matches(name, known, 1)
    hint = f'did you mean {close[0]}?' if close else '`pdl_jax weights` lists all'
    raise ValueError(f'{name} is no network that is known here: {hint}')


def _find_summary(card: str) -> str:
    """Finds the first line of a card that is neither its heading nor empty."""
    lines = (line.strip() for line in card.splitlines())
    return next((line for line in lines if line and not line.startswith('#')), '')
