"""Names of the formats and class lists that `prepare` takes.

Plain constants without imports, so that a command can list them without loading the readers.
"""

# Format -> module of pdl_jax.data.readers whose `read_split` reads it. Parameters of `read_split`
# are the options of the format; those without a default are required.
FORMATS = {
    'coco_panoptic': 'panoptic_folder',
    'coco_instances': 'coco_instances',
    'labelme': 'labelme',
    'yolo': 'yolo',
    'instance_masks': 'instance_masks',
    'object_masks': 'object_masks',
    'voc_pairs': 'voc_pairs',
    'label_maps': 'label_maps',
    'binary_masks': 'binary_masks',
    'cityscapes': 'cityscapes',
    'mapillary_vistas': 'mapillary',
    'ade20k': 'ade20k',
    'voc': 'voc',
    'coco_stuff': 'coco_stuff',
    'camvid': 'camvid',
    'image_folder': 'image_folder',
    'imagenet': 'imagenet',
    'tfds': 'tfds_images',
}

# Names that `catalog.get_spec` takes.
SPEC_NAMES = ('auto', 'own', 'coco', 'coco_ids', 'cityscapes')
