"""Published files of DeepLabs that are not converted, and the reasons."""

from pdl_jax.convert.publication import Unreadable

_DEEPLAB2 = 'https://github.com/google-research/deeplab2/blob/main/g3doc/projects'
_TENSORFLOW = 'https://github.com/tensorflow/models/blob/master/research/deeplab/g3doc/model_zoo.md'
_TORCHVISION = 'https://docs.pytorch.org/vision/stable/models.html'

UNREADABLE: tuple[Unreadable, ...] = (
    Unreadable(
        (
            'max_deeplab_l_backbone_os16_axial_deeplab_cityscapes_trainfine',
            'max_deeplab_l_backbone_imagenet1k_strong_training_strategy',
        ),
        f'{_DEEPLAB2}/axial_deeplab.md',
        '66.3 PQ',
        'its encoder, a stacked decoder on Wide-ResNet-41, is not among the backbones',
    ),
    Unreadable(
        tuple(
            f'max_deeplab_l_os16_res1025_{steps}_coco_train' for steps in ('100k', '200k', '400k')
        ),
        f'{_DEEPLAB2}/max_deeplab.md',
        '50.9, 51.1, 51.3 PQ',
        'MaX-DeepLab-L has the same encoder',
    ),
    Unreadable(
        (
            'resnet50_os32_motion_deeplab_kitti_train',
            'resnet50_os32_motion_deeplab_kitti_trainval',
            'resnet50_os32_panoptic_deeplab_cityscapes_crowd_trainfine_netsurgery_first_layer',
            'resnet50_os32_panoptic_deeplab_cityscapes_crowd_trainfine_netsurgery_first_and_last_layer',
        ),
        f'{_DEEPLAB2}/motion_deeplab.md',
        '42.1 PQ, 57.7 STQ',
        'Motion-DeepLab reads two frames and the heatmap of the first: seven channels',
    ),
    Unreadable(
        ('resnet50_os32_panoptic_deeplab_cityscapes_crowd_trainfine_netsurgery_last_layer',),
        f'{_DEEPLAB2}/motion_deeplab.md',
        '',
        'has the seven classes of MOTChallenge-STEP, which `--dataset=FILE.json` must list',
    ),
    Unreadable(
        ('deeplabv3_mnv2_dm05_pascal_trainaug', 'deeplabv3_mnv2_ade20k_train'),
        _TENSORFLOW,
        '70.2, 32.0 mIoU',
        'no preset is of MobileNetV2 at half width, or with a decoder',
    ),
    Unreadable(
        ('frozen_inference_graph.pb',),
        _TENSORFLOW,
        '',
        'graphs are programs: the archive has the checkpoint beside them, which loads',
    ),
    Unreadable(
        ('fcn_resnet50_coco-1167a1af', 'fcn_resnet101_coco-7ecb50ca'),
        _TORCHVISION,
        '60.5, 63.7 mIoU',
        'fully convolutional networks are no DeepLabs',
    ),
)
