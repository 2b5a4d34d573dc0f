"""The model card of a checkpoint: the page that people read before they use it."""

import os
import re

from etils import epath

from pdl_jax.prediction.trained import read_trained
from pdl_jax.storage.checkpoint import find_checkpoint
from pdl_jax.storage.metrics import find_metrics
from pdl_jax.storage.outside_files import read_outside_file
from pdl_jax.storage.sharing import CARD
from pdl_jax.storage.shipped import find_shipped, read_card

# Metadata of the Hub: the library, the task, words to find it by.
_HEAD = """\
---
library_name: pdl_jax
pipeline_tag: image-segmentation
tags:
- panoptic-segmentation
- panoptic-deeplab
- jax
---
"""
_MAX_CLASSES = 300
_MAX_CARD_BYTES = 2**20


def find_card(source: str, step: int | str | None, *, address: str) -> str:
    """Finds the model card of a checkpoint to hand on, or writes one.

    Args:
      source: a workdir, which may have a card of its own, README.md; one step of it; or a name of
        `list_shipped`.
      step: see `find_checkpoint`.
      address: the place that others will pull it from.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: the checkpoint is damaged, or a part of a network, or the card is no text.
    """
    checkpoint = find_checkpoint(source, step)
    own = checkpoint.parent.parent / CARD
    if own.exists():
        try:
            return read_outside_file(own, max_bytes=_MAX_CARD_BYTES).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f'{own} is no UTF-8 text: save it as such') from error
    if find_shipped(source) is not None:
        return _HEAD + read_card(source)
    title = os.path.basename(address.rstrip('/'))
    return make_card(checkpoint, title=title, address=address)


def make_card(checkpoint: epath.Path, *, title: str, address: str) -> str:
    """Writes the model card of a checkpoint from its description and its metrics.

    Args:
      checkpoint: the folder of one step.
      title: name of the network.
      address: the place that it is pulled from.

    Returns:
      Markdown, with the metadata that the Hugging Face Hub reads at its top.

    Raises:
      ValueError: the checkpoint is damaged, or a part of a network.
    """
    trained = read_trained(checkpoint)
    folder = re.sub(r'[^\w.-]', '_', os.path.basename(address.rstrip('/')).partition('@')[0])
    program = _escape(str(trained.description.get('program', 'pdl_jax')))
    config = trained.description['config']
    backbone = config['model'].get('backbone') or config['model'].get('preset', '')
    lines = [
        f'# {_escape(title)}',
        '',
        f'A network of {program} with the backbone `{_escape(str(backbone))}`, step '
        f'{checkpoint.name}, for {len(trained.spec.categories)} classes of '
        f'`{_escape(trained.spec.name)}`. The configuration, the classes and their colours are in '
        f'the checkpoint.',
        '',
        '```bash',
        f'pdl_jax pull {address} {folder}',
        f'pdl_jax predict --checkpoint={folder} --images=photos --output=predictions',
        '```',
        '',
        '## Metrics',
        '',
        *_list_metrics(checkpoint, str(config['data'].get('eval_split', ''))),
        '',
        '## Classes',
        '',
        '| id | class | kind | colour |',
        '|---|---|---|---|',
    ]
    for category in trained.spec.categories[:_MAX_CLASSES]:
        color = '#{:02x}{:02x}{:02x}'.format(*category.color)
        kind = 'thing' if category.is_thing else 'stuff'
        lines.append(f'| {category.id} | {_escape(category.name)} | {kind} | {color} |')
    left = len(trained.spec.categories) - _MAX_CLASSES
    return _HEAD + '\n'.join([*lines, *([f'\nand {left} more'] if left > 0 else []), ''])


def _list_metrics(checkpoint: epath.Path, split: str) -> list[str]:
    metrics = find_metrics(checkpoint)
    if not metrics:
        return ['This checkpoint was not evaluated.']
    num_images = metrics.pop('num_images', None)
    of_images = f', {num_images} images' if num_images else ''
    rows = [f'| {name.replace("_", " ")} | {100 * value:.1f} |' for name, value in metrics.items()]
    return [
        f'On the split `{_escape(split)}`{of_images}, in percent:',
        '',
        '| | |',
        '|---|---|',
        *rows,
    ]


def _escape(text: str) -> str:
    """Makes a name of anybody's harmless in Markdown and HTML."""
    text = ' '.join(text.split())[:200]
    return re.sub(r'([\\`*_{}\[\]()<>#|!&~])', r'\\\1', text)
