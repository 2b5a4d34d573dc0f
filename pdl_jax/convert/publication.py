"""The entry of a published checkpoint: what is known of it, and its wording."""

import dataclasses
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

# The evidence that files load, see docs/weights.md, by source, preset or file.
_EVIDENCE = {
    'bowenc0221': 'program',
    'bowenc0221/resnext101_32x8d_os32': 'restated',
    'detectron2': 'restated',
    'detectron2/resnet52_os16': 'program',
    'detectron2/resnet52_os16_dsconv': 'program',
    'deeplab2': 'program',
    **{
        f'{family}/axial_swidernet_1_1_{depth}{stride}': 'keys'
        for family, stride in (('deeplab2', '_os16'), ('imagenet', ''))
        for depth in ('1', '3', '4.5')
    },
    'X-101-32x8d.pkl': 'keys',
    'torchvision': 'program',
    'tensorflow': 'restated',
    'tensorflow/deeplab_v3_mobilenet_v2_os16': 'names',
    'tensorflow/deeplab_v3plus_xception71_dpc_os16': 'keys',
    'tensorflow/lr_aspp_mobilenet_v3_large_os32': 'keys',
    'tensorflow/lr_aspp_mobilenet_v3_small_os32': 'keys',
    'keras': 'file',
    'kmax_pytorch': 'restated',
    'convnext': 'names',
    'timm': 'program',
    'deeplab_pytorch': 'program',
    'model_garden': 'program',
}


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """Published files that are not converted.

    Attributes:
      files: their names, as the page has them.
      page: address of the page that links to them.
      score: the score that the page states, or ''.
      reason: the reason.
    """

    files: tuple[str, ...]
    page: str
    score: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Published:
    """A checkpoint.

    Attributes:
      source: the program that published it, a value of `pdl_jax convert --from`.
      file: the file, the unpacked folder of DeepLab2, or the name to save it under where a page
        gives none.
      preset: its network.
      dataset: what it was trained on, as `pdl_jax convert --dataset` names it; '' for a backbone
        trained on ImageNet.
      num_classes: number of its logits, without the one of queries for void; 0 for a backbone.
      page: address of the page that links to it.
      pq, miou: scores in percent that the page states; None where it states none.
      parameters: trainable ones of the network, with branches that only training uses, without a
        classifier of ImageNet.
      note: what else to know.
    """

    source: str
    file: str
    preset: str
    dataset: str
    num_classes: int
    page: str
    pq: float | None
    miou: float | None
    parameters: int
    note: str = ''

    @property
    def name(self) -> str:
        """The file without its ending."""
        for ending in ('.pth', '.pkl', '.npz', '.safetensors'):
            if self.file.endswith(ending):
                return self.file.removesuffix(ending)
        return self.file

    @property
    def evidence(self) -> str:
        """The kind of test that a file of this layout loads with the right outputs."""
        key = next(x for x in (self.file, self.preset, self.source) if x in _EVIDENCE)
        return _EVIDENCE[key]

    @property
    def command(self) -> str:
        """The command that converts it."""
        words = (
            f'--from={self.source}',
            f'--preset={self.preset}',
            f'--input={self.file}',
            f'--output=runs/{self.name}',
        )
        return shlex.join(('pdl_jax', 'convert', *words))


def format_list(published: Sequence[Published]) -> str:
    """Formats checkpoints as a table by page, each with its command below."""
    lines, page = [], ''
    width = max(len(item.name) for item in published)
    for item in published:
        if item.page != page:
            page = item.page
            lines += ['', page, f'  {"name":{width}}  data        PQ    mIoU   parameters']
        lines += [
            f'  {item.name:{width}}  {item.dataset or "imagenet":10}  {_format(item.pq)}  '
            f'{_format(item.miou)}  {item.parameters:11,}',
            f'      {item.command}',
        ]
    return '\n'.join(lines).lstrip('\n')


def format_one(item: Published) -> str:
    """Formats all that is known of a checkpoint."""
    rows = {
        'published by': item.source,
        'page': item.page,
        'file': item.file,
        'network': item.preset,
        'trained on': item.dataset or 'imagenet (a backbone, to start training from)',
        'PQ': _format(item.pq).strip(),
        'mIoU': _format(item.miou).strip(),
        'parameters': f'{item.parameters:,}',
        'loads by': item.evidence,
        'note': item.note,
        'convert with': item.command,
    }
    return '\n'.join(f'{key:12}  {value}' for key, value in rows.items() if value)


def format_rows(published: Sequence[Published]) -> list[str]:
    """Formats checkpoints as rows of a Markdown table."""
    return [
        f'| `{item.name}` | [{item.source}]({item.page}) | `{item.preset}` | '
        f'{item.dataset or "ImageNet"} | {_format(item.pq).strip()} | '
        f'{_format(item.miou).strip()} | {item.parameters:,} | {item.evidence} |'
        for item in published
    ]


def format_unreadable(unreadable: Sequence[Unreadable]) -> list[str]:
    """Formats files that are not converted as rows of a Markdown table."""
    return [
        f'| {", ".join(f"`{file}`" for file in item.files)} | [page]({item.page}) | '
        f'{item.score or "-"} | {item.reason} |'
        for item in unreadable
    ]


def to_json(item: Published) -> dict[str, Any]:
    """Lists the fields of a checkpoint, its name and its command."""
    return {
        'name': item.name,
        **dataclasses.asdict(item),
        'evidence': item.evidence,
        'command': item.command,
    }


def read_rows(
    source: str,
    dataset: str,
    num_classes: int,
    page: str,
    *rows: str,
    file: str = '{}',
    note: str = '',
    family: str = '',
) -> Iterator[Published]:
    """Reads rows of 'PRESET PQ MIOU PARAMETERS FILE', with - for no score.

    A row without FILE has that of the pattern `file`. Presets are of `family`, by default the one
    named like the source.
    """
    for row in rows:
        preset, pq, miou, parameters, *own = row.split()
        yield Published(
            source=source,
            file=own[0] if own else file.format(preset),
            preset=f'{family or source if dataset else "imagenet"}/{preset}',
            dataset=dataset,
            num_classes=num_classes,
            page=page,
            pq=None if pq == '-' else float(pq),
            miou=None if miou == '-' else float(miou),
            parameters=int(parameters),
            note=note,
        )


def _format(score: float | None) -> str:
    return '   -' if score is None else f'{score:4.1f}'
