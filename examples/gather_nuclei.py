"""Gathers the splits of DSB 2018's nuclei into the ones that the network `nuclei` is trained on.

    python examples/gather_nuclei.py --source=dsb2018_nuclei --out=data/nuclei_raw
    for split in train val held_out; do
      pdl_jax prepare --format=coco_panoptic --images=data/nuclei_raw/$split/images \
          --panoptic=data/nuclei_raw/$split/panoptic_$split \
          --json=data/nuclei_raw/$split/panoptic_$split.json --out=data/nuclei_all --split=$split
    done

train is train, train360 and two thirds of mixed_sizes; val is val and val360; held_out is the
last third of mixed_sizes, every third file by name.
"""

import argparse
import json
import pathlib
import shutil

SPLITS = {
    'train': {'train': 'all', 'train360': 'all', 'mixed_sizes': 'most'},
    'val': {'val': 'all', 'val360': 'all'},
    'held_out': {'mixed_sizes': 'rest'},
}


def main() -> None:
    """Copies images and labels, and merges the lists of segments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--source', type=pathlib.Path, required=True)
    parser.add_argument('--out', type=pathlib.Path, required=True)
    flags = parser.parse_args()
    for split, parts in SPLITS.items():
        gather(flags.source, flags.out, split, parts)


def gather(source: pathlib.Path, out: pathlib.Path, split: str, parts: dict[str, str]) -> None:
    """Writes one split."""
    (out / split / 'images').mkdir(parents=True, exist_ok=True)
    (out / split / f'panoptic_{split}').mkdir(exist_ok=True)
    merged = {'images': [], 'annotations': [], 'categories': []}
    for part, share in parts.items():
        labels = json.loads((source / part / f'panoptic_{part}.json').read_text())
        names = sorted(image['file_name'] for image in labels['images'])
        if share != 'all':
            names = [x for i, x in enumerate(names) if (i % 3 == 2) == (share == 'rest')]
        merged['categories'] = labels['categories']
        # Numbers of images may repeat between parts.
        numbers = {}
        for image in labels['images']:
            if image['file_name'] in names:
                numbers[image['id']] = len(merged['images'])
                merged['images'].append({**image, 'id': numbers[image['id']]})
                name = image['file_name']
                shutil.copyfile(source / part / 'images' / name, out / split / 'images' / name)
        for annotation in labels['annotations']:
            if annotation['image_id'] in numbers:
                name = annotation['file_name']
                number = numbers[annotation['image_id']]
                merged['annotations'].append({**annotation, 'image_id': number})
                shutil.copyfile(
                    source / part / f'panoptic_{part}' / name,
                    out / split / f'panoptic_{split}' / name,
                )
    (out / split / f'panoptic_{split}.json').write_text(json.dumps(merged))
    print(f'{split}: {len(merged["images"])} images')


if __name__ == '__main__':
    main()
