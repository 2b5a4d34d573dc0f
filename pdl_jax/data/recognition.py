"""Recognises the layout of a folder of images and labels: which reader, with which options.

Each rule looks for the names that a tool writes and opens a few files at most, so that a wrong
guess is cheap; the reader checks everything.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from pdl_jax.data import label_files
from pdl_jax.data.images import IMAGE_SUFFIXES
from pdl_jax.data.text_files import read_json
from pdl_jax.storage import paths
from pdl_jax.storage.outside_files import read_outside_file

# Bounds on what is looked at below the folder.
_MAX_DEPTH = 3
_MAX_FOLDERS = 2000
_MAX_SAMPLES = 8

_SPLITS = {
    'train': ('train', 'training', 'train2017', 'stage1_train'),
    'val': ('val', 'valid', 'validation', 'val2017'),
    'test': ('test', 'testing'),
}
_IMAGE_FOLDERS = ('images', 'imgs', 'img', 'image', 'photos', 'raw', 'JPEGImages')
_LABEL_FOLDERS = (
    'labels',
    'masks',
    'mask',
    'label',
    'annotations',
    'gt',
    'instances',
    'mask_images',
)
# Folders of official downloads by format.
_PUBLIC_FOLDERS = {
    'cityscapes': ('leftImg8bit',),
    'ade20k': ('annotations/training', 'images/training'),
    'coco_stuff': ('stuffthingmaps',),
}
# In names of folders of labels.
_LABEL_WORDS = ('panoptic', 'label', 'mask', 'annotation', 'gt', 'png')
_CLASS_LISTS = (
    *('classes.txt', 'class_names.txt', 'labelmap.txt', 'labels.txt', 'classes.json'),
    *('id2label.json', 'meta.json', 'classes.csv', 'class_dict.csv', 'palette.csv'),
)
_MASK_SUFFIXES = ('.png', '.tif', '.tiff', '.npy', '.bmp')


class Layout(NamedTuple):
    """A recognised split.

    Attributes:
      format: key of `dataset_formats.FORMATS`.
      options: arguments of its `read_split`.
      split: 'train', 'val' or 'test'; '' where the folder is one undivided set.
      evidence: what it was recognised by.
    """

    format: str
    options: dict[str, Any]
    split: str
    evidence: str


def recognize(path: str | os.PathLike, *, class_name: str = '') -> list[Layout]:
    """Recognises the splits of a folder.

    Args:
      path: the folder, or an annotation file.
      class_name: name of the only class, for masks that have none; 'object' if ''.

    Returns:
      One layout per split, with different names of splits.

    Raises:
      FileNotFoundError: there is nothing at `path`.
      ValueError: no rule fits; the message lists what was looked for.
    """
    root = paths.make_path(path)
    if not root.exists():
        raise FileNotFoundError(f'{os.fspath(root)} does not exist')
    if not root.is_dir():
        layout = _recognize_json(root, [root.parent, *_list_folders(root.parent)])
        if layout is None:
            raise ValueError(
                f'{os.fspath(root)} is no COCO annotation file (no annotations with '
                f'segments_info or segmentation): give the folder of the data set'
            )
        return [layout]
    class_name = class_name or 'object'
    for rule in _RULES:
        layouts = rule(root, class_name)
        if layouts:
            return layouts
    inner = []
    for split, names in _SPLITS.items():
        for name in names:
            if (root / name).is_dir():
                found = _recognize_part(root / name, class_name)
                inner += [layout._replace(split=split) for layout in found[:1]]
                break
    if inner:
        return inner
    raise ValueError(
        f'{os.fspath(root)}: no known layout. Looked for COCO JSON (panoptic or instances), '
        f'LabelMe JSON, YOLO labels with data.yaml, JPEGImages with SegmentationClass, leftImg8bit '
        f'with gtFine, NAME/images with NAME/masks, a folder of images '
        f'({", ".join(_IMAGE_FOLDERS)}) beside one of masks ({", ".join(_LABEL_FOLDERS)}), and a '
        f'folder of images per class: pass --format and its flags instead'
    )


def _recognize_part(root: epath.Path, class_name: str) -> list[Layout]:
    return next((layouts for rule in _RULES if (layouts := rule(root, class_name))), [])


def _find_public(root: epath.Path, class_name: str) -> list[Layout]:
    """Recognises the official downloads by their folders."""
    del class_name
    for format_, folders in _PUBLIC_FOLDERS.items():
        if all((root / folder).is_dir() for folder in folders):
            return [
                Layout(format_, {'root': os.fspath(root), 'split': s}, s, f'{folders[0]}/')
                for s in ('train', 'val')
            ]
    return []


def _find_voc(root: epath.Path, class_name: str) -> list[Layout]:
    del class_name
    if not (root / 'JPEGImages').is_dir():
        return []
    classes = _find_class_list(root)
    lists = root / 'ImageSets' / 'Segmentation'
    splits = [s for s in ('train', 'val') if (lists / f'{s}.txt').exists()] or ['']
    for name in ('SegmentationClass', 'SegmentationClassPNG'):
        if (root / name).is_dir() and classes is not None:
            options: dict[str, Any] = {'root': os.fspath(root)}
            kind = 'voc_pairs'
            if name != 'SegmentationClass':
                kind, splits = 'label_maps', ['']
                options = {
                    'images_dir': os.fspath(root / 'JPEGImages'),
                    'labels_dir': os.fspath(root / name),
                    'classes_path': os.fspath(classes),
                }
            return [
                Layout(kind, {**options, **({'split': s} if s else {})}, s, f'{name}/')
                for s in splits
            ]
        if (root / name).is_dir():
            options = {'root': os.fspath(root)}
            return [Layout('voc', {**options, 'split': s}, s, f'{name}/') for s in splits if s]
    return []


def _find_yolo(root: epath.Path, class_name: str) -> list[Layout]:
    del class_name
    yaml = [name for name in ('data.yaml', 'dataset.yaml', 'data.yml') if (root / name).exists()]
    labels = [f for f in _list_folders(root) if f.name == 'labels' or f.parent.name == 'labels']
    if not any(_first_files(folder, ('.txt',)) for folder in labels):
        return []
    evidence = f'{yaml[0] if yaml else "labels/"} and .txt files'
    names = {part.lower() for folder in labels for part in folder.parts[-2:]}
    splits = [s for s, aliases in _SPLITS.items() if names & set(aliases)]
    options = {'root': os.fspath(root)}
    if not splits:
        return [Layout('yolo', options, '', evidence)]
    return [Layout('yolo', {**options, 'split': s}, s, evidence) for s in splits]


def _find_json(root: epath.Path, class_name: str) -> list[Layout]:
    """Recognises COCO and LabelMe by what their JSON files hold."""
    del class_name
    folders = [root, *_list_folders(root)]
    layouts: dict[str, Layout] = {}
    for folder in folders:
        for file in _first_files(folder, ('.json',)):
            if _is_labelme(file):
                return [Layout('labelme', {'root': os.fspath(root)}, '', f'{file.name} has shapes')]
            layout = _recognize_json(file, folders)
            if layout is not None:
                kept = layouts.setdefault(layout.split, layout)
                # A panoptic file says all that an instance file beside it says.
                if layout.format == 'coco_panoptic' != kept.format:
                    layouts[layout.split] = layout
    return list(layouts.values())


def _find_object_masks(root: epath.Path, class_name: str) -> list[Layout]:
    for folder in itertools.islice(_iterate_folders(root), _MAX_SAMPLES):
        if not ((folder / 'images').is_dir() and (folder / 'masks').is_dir()):
            continue
        # A folder of many images is a split, not an image with its masks.
        if len(_first_files(folder / 'images', IMAGE_SUFFIXES)) == 1:
            options = {'root': os.fspath(root), 'class_name': class_name}
            return [Layout('object_masks', options, '', f'{folder.name}/images and masks')]
    return []


def _find_masks(root: epath.Path, class_name: str) -> list[Layout]:
    """Recognises a folder of images beside one of masks, by the values of some masks."""
    folders = {folder.name: folder for folder in _iterate_folders(root)}
    images = next((folders[name] for name in _IMAGE_FOLDERS if name in folders), None)
    labels = next((folders[name] for name in _LABEL_FOLDERS if name in folders), None)
    if images is None or labels is None:
        return []
    options = {'images_dir': os.fspath(images), 'labels_dir': os.fspath(labels)}
    classes = _find_class_list(root) or _find_class_list(labels)
    if classes is not None:
        options['classes_path'] = os.fspath(classes)
        return [Layout('label_maps', options, '', f'{labels.name}/ and {classes.name}')]
    samples = _first_files(labels, _MASK_SUFFIXES)
    if not samples:
        if all(_first_files(folder, _MASK_SUFFIXES) for folder in _iterate_folders(labels)):
            return [Layout('instance_masks', options, '', f'a folder of {labels.name}/ per class')]
        return []
    values = set()
    for file in samples:
        pixels = label_files.decode_pixels(read_outside_file(file), name=file.name)
        if pixels.values is None:
            raise ValueError(
                f'{file.name} of {os.fspath(labels)} is in colours, and no list says which class '
                f'each means: put classes.csv (name,r,g,b) beside the folder'
            )
        values |= set(np.unique(pixels.values).tolist())
    if values <= {0, 1} or values <= {0, 255}:
        format_, words = 'binary_masks', f'masks of {sorted(values)}'
    else:
        format_, words = 'instance_masks', f'masks of {len(values)} values, without a class list'
    options['class_name'] = class_name
    return [Layout(format_, options, '', words)]


def _find_class_folders(root: epath.Path, class_name: str) -> list[Layout]:
    """Recognises a folder of images for each class by the first of them."""
    del class_name
    folders = list(itertools.islice(_iterate_folders(root), _MAX_SAMPLES))
    taken = {*_IMAGE_FOLDERS, *_LABEL_FOLDERS, *(n for names in _SPLITS.values() for n in names)}
    if len(folders) < 2 or any(folder.name in taken for folder in folders):
        return []
    if not all(_first_files(folder, IMAGE_SUFFIXES) for folder in folders):
        return []
    evidence = f'images in {folders[0].name}/, {folders[1].name}/, ...'
    return [Layout('image_folder', {'root': os.fspath(root)}, '', evidence)]


_RULES: tuple[Callable[[epath.Path, str], list[Layout]], ...] = (
    _find_public,
    _find_voc,
    _find_yolo,
    _find_json,
    _find_object_masks,
    _find_masks,
    _find_class_folders,
)


def _recognize_json(file: epath.Path, folders: Sequence[epath.Path]) -> Layout | None:
    """Returns the layout of a COCO annotation file; None if it is another file.

    Args:
      file: the JSON file.
      folders: where images and labels may lie; the first one if they are nowhere.
    """
    try:
        content = read_json(file, remedy='')
    except (ValueError, OSError):
        return None
    if not isinstance(content, dict):
        return None
    images, annotations = content.get('images'), content.get('annotations')
    if not isinstance(images, list) or not isinstance(annotations, list):
        return None
    entries = [a for a in annotations[:1] if isinstance(a, dict)]
    is_panoptic = any('segments_info' in a for a in entries)
    if not is_panoptic and not any('segmentation' in a for a in entries):
        return None
    options = {'json_path': os.fspath(file)}
    taken = None
    if is_panoptic:
        taken = _find_holder(annotations, folders, is_label=True)
        options['panoptic_dir'] = os.fspath(taken or folders[0])
    found = _find_holder(images, folders, other_than=taken)
    options['images_dir'] = os.fspath(found or folders[0])
    words = {word for part in (file.stem, file.parent.name) for word in part.lower().split('_')}
    split = next((s for s, names in _SPLITS.items() if words & set(names)), '')
    key = 'segments_info' if is_panoptic else 'segmentation'
    format_ = 'coco_panoptic' if is_panoptic else 'coco_instances'
    return Layout(format_, options, split, f'{file.name} has {key}')


def _find_holder(
    entries: list[Any],
    folders: Sequence[epath.Path],
    *,
    is_label: bool = False,
    other_than: epath.Path | None = None,
) -> epath.Path | None:
    """Returns the folder that holds the first files that entries name.

    Images and labels may have the same names; then the name of the folder decides.
    """
    named = [e.get('file_name') for e in entries[:_MAX_SAMPLES] if isinstance(e, dict)]
    names = [name for name in named if isinstance(name, str)]
    holders = [
        folder
        for folder in folders
        if folder != other_than
        and any('..' not in name and (folder / name).exists() for name in names)
    ]

    def is_unlikely(folder: epath.Path) -> bool:
        return any(word in folder.name.lower() for word in _LABEL_WORDS) != is_label

    return min(holders, key=is_unlikely, default=None)


def _is_labelme(file: epath.Path) -> bool:
    with file.open('rb') as stream:
        start = stream.read(2**16)
    return b'"shapes"' in start and (b'"imagePath"' in start or b'"points"' in start)


def _find_class_list(folder: epath.Path) -> epath.Path | None:
    return next((folder / name for name in _CLASS_LISTS if (folder / name).exists()), None)


def _first_files(folder: epath.Path, suffixes: tuple[str, ...]) -> list[epath.Path]:
    """Returns the first files with some suffixes, in the order of their names."""
    names = sorted(
        path.name
        for path in folder.iterdir()
        if path.suffix.lower() in suffixes and not path.name.startswith('.')
    )
    return [folder / name for name in names[:_MAX_SAMPLES]]


def _iterate_folders(root: epath.Path) -> Iterator[epath.Path]:
    """Yields the folders in a folder, except hidden ones, by name."""
    for path in sorted(root.iterdir()):
        is_file = path.suffix.lower() in (*IMAGE_SUFFIXES, '.json', '.txt')
        if not path.name.startswith('.') and not is_file and path.is_dir():
            yield path


def _list_folders(root: epath.Path) -> list[epath.Path]:
    """Lists the folders below a folder, some levels deep, the upper ones first."""
    level, found = [root], []
    for _ in range(_MAX_DEPTH):
        level = [inner for folder in level for inner in _iterate_folders(folder)]
        found += level
        if len(found) > _MAX_FOLDERS:
            break
    return found[:_MAX_FOLDERS]
