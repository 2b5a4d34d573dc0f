"""The published checkpoints that the converter knows, with where they are and what they reach.

Scores are those that the page states, in percent on the validation split, single scale. No file is
downloaded from here.
"""

from pdl_jax.convert.publication import Published
from pdl_jax.convert.publication import read_rows as _list

_GITHUB = 'https://github.com'
_BOWENC0221 = f'{_GITHUB}/bowenc0221/panoptic-deeplab/blob/master/MODEL_ZOO.md'
_BOWENC0221_TOOLS = f'{_GITHUB}/bowenc0221/panoptic-deeplab/blob/master/tools_d2/README.md'
_HRNET = f'{_GITHUB}/HRNet/HRNet-Image-Classification'
_DETECTRON2_PROJECTS = f'{_GITHUB}/facebookresearch/detectron2/blob/main/projects'
_DETECTRON2 = f'{_DETECTRON2_PROJECTS}/Panoptic-DeepLab/README.md'
_DETECTRON2_DEEPLAB = f'{_DETECTRON2_PROJECTS}/DeepLab/README.md'
_DETECTRON2_ZOO = f'{_GITHUB}/facebookresearch/detectron2/blob/main/MODEL_ZOO.md'
_DEEPLAB2_PROJECTS = f'{_GITHUB}/google-research/deeplab2/blob/main/g3doc/projects'
_DEEPLAB2 = f'{_DEEPLAB2_PROJECTS}/panoptic_deeplab.md'
_DEEPLAB2_MOTION = f'{_DEEPLAB2_PROJECTS}/motion_deeplab.md'
_DEEPLAB2_AXIAL = f'{_DEEPLAB2_PROJECTS}/axial_deeplab.md'
_DEEPLAB2_MAX = f'{_DEEPLAB2_PROJECTS}/max_deeplab.md'
_DEEPLAB2_KMAX = f'{_DEEPLAB2_PROJECTS}/kmax_deeplab.md'
_DEEPLAB2_IMAGENET = f'{_DEEPLAB2_PROJECTS}/imagenet_pretrained_checkpoints.md'
_KMAX = f'{_GITHUB}/bytedance/kmax-deeplab'
_CONVNEXT = f'{_GITHUB}/facebookresearch/ConvNeXt'
_TIMM = f'{_GITHUB}/huggingface/pytorch-image-models'
_DEEPLAB_PYTORCH = f'{_GITHUB}/kazuto1011/deeplab-pytorch'
_MODEL_GARDEN = f'{_GITHUB}/tensorflow/models/blob/master/official/projects/panoptic/README.md'
_TORCHVISION = 'https://docs.pytorch.org/vision/stable/models.html'
_TENSORFLOW = f'{_GITHUB}/tensorflow/models/blob/master/research/deeplab/g3doc/model_zoo.md'
_KERAS = 'https://keras.io/api/applications/mobilenet/'

_SAVE = 'save the file from Google Drive under this name, which tells its data set'
_SAVE_TIMM = 'save model.safetensors under this name'

PUBLISHED: tuple[Published, ...] = (
    *_list(
        'bowenc0221', 'cityscapes', 19, _BOWENC0221,
        'resnet50_os32 59.8 78.6 55_308_870 panoptic_deeplab_R50_os32_cityscapes.pth',
        'resnet101_os32 60.3 78.4 74_300_998 panoptic_deeplab_R101_os32_cityscapes.pth',
        'xception65_os32 61.8 79.6 69_632_054 panoptic_deeplab_X65_os32_cityscapes.pth',
        'resnext101_32x8d_os32 61.4 79.6 118_543_174 '
        'panoptic_deeplab_X101_32x8d_os32_cityscapes.pth',
        'mobilenet_v2_os32 55.1 75.8 7_719_814 panoptic_deeplab_MBNV2_os32_cityscapes.pth',
        'hrnet_w48 63.4 80.9 72_209_222 panoptic_deeplab_H48_os4_cityscapes.pth',
        note=_SAVE,
    ),
    *_list(
        'detectron2', 'cityscapes', 19, _DETECTRON2,
        'resnet52_os16 60.3 78.2 59_770_166 model_final_bd324a.pkl',
        'resnet52_os16_dsconv 60.3 78.7 30_271_350 model_final_23d03a.pkl',
    ),
    *_list(
        'detectron2', 'coco', 133, _DETECTRON2,
        'resnet52_os16_dsconv 35.5 - 30_300_648 model_final_5e6da2.pkl',
    ),
    *_list(
        'detectron2', 'cityscapes', 19, _BOWENC0221_TOOLS,
        'xception65_os16 62.6 79.4 74_033_318 panoptic_deeplab_X65_cityscapes_d2.pth',
        'hrnet_w48 63.3 80.3 78_657_974 panoptic_deeplab_H48_cityscapes_d2.pth',
        'xception65_os16_dsconv 61.4 79.8 44_534_502 '
        'panoptic_deeplab_X65_dsconv_cityscapes_d2.pth',
        'hrnet_w48_dsconv 63.4 80.6 67_727_222 panoptic_deeplab_H48_dsconv_cityscapes_d2.pth',
        'deeplab_v3plus_xception65_os16 - 80.1 54_710_691 deeplab_v3_plus_X65_cityscapes_d2.pth',
        'deeplab_v3plus_hrnet_w48 - 80.9 72_876_531 deeplab_v3_plus_H48_cityscapes_d2.pth',
        note=_SAVE,
    ),
    *_list(
        'detectron2', 'coco', 133, _BOWENC0221_TOOLS,
        'xception65_os16_dsconv 36.7 - 44_563_800 panoptic_deeplab_X65_dsconv_coco_d2.pth',
        'hrnet_w48_dsconv 37.8 - 67_756_520 panoptic_deeplab_H48_dsconv_coco_d2.pth',
        note=_SAVE,
    ),
    *_list(
        'detectron2', 'cityscapes', 19, _DETECTRON2_DEEPLAB,
        'deeplab_v3_resnet103_os16 - 78.5 58_163_667 model_final_0dff1b.pkl',
        'deeplab_v3plus_resnet103_os16 - 80.0 59_467_315 model_final_a8a355.pkl',
    ),
    *_list(
        'deeplab2', 'cityscapes', 19, _DEEPLAB2,
        'mobilenet_v3_small_os16 48.4 69.5 10_484_198',
        'mobilenet_v3_large_os16 55.3 74.5 18_236_534',
        file='{}_panoptic_deeplab_cityscapes_dwo',
    ),
    *_list(
        'deeplab2', 'cityscapes', 19, _DEEPLAB2,
        'resnet50_os32 59.8 76.0 54_973_702',
        'resnet50_beta_os32 60.8 77.0 55_097_478',
        'wide_resnet41_os16 64.4 81.5 140_479_750',
        'swidernet_sac_1_1_1_os16 64.3 81.8 144_418_057',
        'swidernet_sac_1_1_3_os16 66.6 82.1 376_526_095',
        'swidernet_sac_1_1_4.5_os16 66.8 82.2 535_985_427',
        file='{}_panoptic_deeplab_cityscapes_trainfine',
    ),
    *_list(
        'deeplab2', 'cityscapes', 19, _DEEPLAB2_AXIAL,
        'axial_swidernet_1_1_1_os16 66.1 82.8 137_844_454',
        'axial_swidernet_1_1_3_os16 67.1 83.5 395_380_582',
        'axial_swidernet_1_1_4.5_os16 68.0 83.0 571_791_974',
        'max_deeplab_s_backbone_os16 64.5 82.2 42_788_486',
        file='{}_axial_deeplab_cityscapes_trainfine',
    ),
    *_list(
        'deeplab2', 'coco', 134, _DEEPLAB2,
        'resnet50_os32 34.1 - 55_003_257 resnet50_os32_panoptic_deeplab_coco_train_2',
        'resnet50_beta_os32 34.6 - 55_127_033 resnet50beta_os32_panoptic_deeplab_coco_train',
        'resnet50_os16 35.1 - 55_003_257 resnet50_os16_panoptic_deeplab_coco_train',
        'resnet50_beta_os16 35.2 - 55_127_033 resnet50beta_os16_panoptic_deeplab_coco_train',
    ),
    *_list(
        'deeplab2', 'cityscapes', 19, _DEEPLAB2_MOTION,
        'resnet50_os32 - - 54_973_702 resnet50_os32_panoptic_deeplab_cityscapes_crowd_trainfine',
        note='to start training on KITTI-STEP from',
    ),
    *_list(
        'deeplab2', 'kitti_step', 19, _DEEPLAB2_MOTION,
        'resnet50_os32 48.31 71.16 54_973_702 resnet50_os32_panoptic_deeplab_kitti_train',
        note="measured by DeepLab2's own metric",
    ),
    *_list(
        'deeplab2', 'kitti_step', 19, _DEEPLAB2_MOTION,
        'resnet50_os32 - - 54_973_702 resnet50_os32_panoptic_deeplab_kitti_trainval',
        note='trained on the validation split too',
    ),
    *_list(
        'deeplab2', 'coco', 133, _DEEPLAB2_MAX,
        *(
            f'max_deeplab_s_os16 {pq} - 77_756_942 max_deeplab_s_os16_res{size}_{steps}_coco_train'
            for size, steps, pq in (
                (641, '100k', 45.9), (641, '200k', 46.5), (641, '400k', 47.0),
                (1025, '100k', 47.9), (1025, '200k', 48.7), (1025, '400k', 49.0),
            )
        ),
    ),
    *_list(
        'deeplab2', 'coco', 133, _DEEPLAB2_KMAX,
        'resnet50_coco 53.0 - 72_436_862',
        'max_s_coco 56.2 - 90_272_254 kmax_maxs_gelu_coco_train',
        'convnext_tiny_coco 55.3 - 67_265_502',
        'convnext_small_coco 56.3 - 88_900_062',
        'convnext_base_coco 57.2 - 129_747_390',
        'convnext_large_coco 57.9 - 243_882_366',
        file='kmax_{}_train', family='kmax_deeplab2',
    ),
    *_list(
        'deeplab2', 'coco', 133, _DEEPLAB2_KMAX,
        'convnext_large_coco 58.1 - 243_882_366 kmax_convnext_large_coco_train_unlabeled',
        note="trained on COCO's unlabeled pictures too", family='kmax_deeplab2',
    ),
    *_list(
        'deeplab2', 'cityscapes', 19, _DEEPLAB2_KMAX,
        'resnet50_cityscapes 64.3 79.7 56_986_125',
        'max_s_cityscapes 66.4 82.1 74_823_693 kmax_maxs_gelu_cityscapes_train',
        'convnext_tiny_cityscapes 66.3 82.6 60_981_933',
        'convnext_small_cityscapes 67.3 83.1 82_616_493',
        'convnext_base_cityscapes 68.0 83.1 121_631_693',
        'convnext_large_cityscapes 68.4 83.5 232_102_413',
        file='kmax_{}_train', family='kmax_deeplab2',
    ),
    *_list(
        'deeplab2', 'ade20k', 150, _DEEPLAB2_KMAX,
        'resnet50_ade20k 41.5 45.0 72_471_814 kmax_resnet50_res641_ade20k_train',
        'convnext_large_ade20k 48.7 54.8 243_917_318 kmax_convnext_large_res641_ade20k_train',
        family='kmax_deeplab2',
    ),
    *_list(
        'deeplab2', 'ade20k', 150, _DEEPLAB2_KMAX,
        'resnet50_ade20k 42.3 45.3 72_471_814 kmax_resnet50_res1281_ade20k_train',
        'convnext_large_ade20k 50.9 55.2 243_917_318 kmax_convnext_large_res1281_ade20k_train',
        note='at 1281x1281; configs/ade20k_kmax.py has 641x641', family='kmax_deeplab2',
    ),
    *_list(
        'model_garden', 'coco_ids', 201, _MODEL_GARDEN,
        'resnet50_os16 36.80 - 40_162_684 resnet50',
        'resnet101_os16 38.39 - 68_089_468 resnet101',
        'mobilenet_v3_large_os16 30.50 - 4_276_972 mobilenetv3_large',
        'mobilenet_v3_small_os16 25.06 - 2_161_884 mobilenetv3_small',
        note='crowds count in its PQ as other segments do',
    ),
    *_list(
        'kmax_pytorch', 'coco', 133, _KMAX,
        'resnet50_coco 53.3 - 72_436_862',
        'convnext_tiny_coco 55.5 - 67_265_502',
        'convnext_small_coco 56.7 - 88_900_062',
        'convnext_base_coco 57.2 - 129_747_390',
        'convnext_large_coco 57.9 - 243_882_366',
        file='kmax_{}.pth', note=_SAVE,
    ),
    *_list(
        'kmax_pytorch', 'cityscapes', 19, _KMAX,
        'resnet50_cityscapes 63.5 79.5 56_975_757',
        'convnext_large_cityscapes 68.4 83.0 232_102_413',
        file='kmax_{}.pth', note=_SAVE,
    ),
    *_list(
        'kmax_pytorch', 'ade20k', 150, _KMAX,
        'resnet50_ade20k 42.2 - 72_471_814',
        'convnext_large_ade20k 50.0 - 243_917_318',
        file='kmax_{}.pth', note=_SAVE,
    ),
    *_list(
        'torchvision', 'voc', 21, _TORCHVISION,
        'deeplab_v3_resnet50_os8 - 66.4 39_638_869 deeplabv3_resnet50_coco-cd0a2569.pth',
        'deeplab_v3_resnet101_os8 - 67.4 58_630_997 deeplabv3_resnet101_coco-586e9e4e.pth',
        'deeplab_v3_mobilenet_v3_large_os16 - 60.3 11_025_477 '
        'deeplabv3_mobilenet_v3_large-fc3c493d.pth',
        'lr_aspp_mobilenet_v3_large_os16 - 57.9 3_221_538 lraspp_mobilenet_v3_large-d234d4ea.pth',
    ),
    *_list(
        'deeplab_pytorch', 'voc', 21, _DEEPLAB_PYTORCH,
        'deeplab_v2_resnet101_os8 - 76.65 44_048_532 deeplabv2_resnet101_msc-vocaug-20000.pth',
        note='77.93 mIoU with `evaluate --crf=voc_v2`',
    ),
    *_list(
        'tensorflow', 'voc', 21, _TENSORFLOW,
        'deeplab_v3plus_xception65_os16 - 82.20 41_055_413 deeplabv3_pascal_train_aug',
        'deeplab_v3_mobilenet_v2_os16 - 75.32 2_113_557 deeplabv3_mnv2_pascal_train_aug',
    ),
    *_list(
        'tensorflow', 'voc', 21, _TENSORFLOW,
        'deeplab_v3plus_xception65_os16 - - 41_055_413 deeplabv3_pascal_trainval',
        'deeplab_v3_mobilenet_v2_os16 - - 2_113_557 deeplabv3_mnv2_pascal_trainval',
        note='trained on the validation split too',
    ),
    *_list(
        'tensorflow', 'cityscapes', 19, _TENSORFLOW,
        'deeplab_v3plus_xception65_os16 - 78.79 41_054_899 deeplabv3_cityscapes_train',
        'deeplab_v3plus_xception71_dpc_os16 - 80.31 41_608_523 '
        'deeplab_cityscapes_xception71_trainfine',
        'lr_aspp_mobilenet_v3_large_os32 - 72.41 1_507_198 deeplab_mnv3_large_cityscapes_trainfine',
        'lr_aspp_mobilenet_v3_small_os32 - 68.99 468_830 deeplab_mnv3_small_cityscapes_trainfine',
        'deeplab_v3_mobilenet_v2_os16 - 70.71 2_113_043 deeplabv3_mnv2_cityscapes_train',
    ),
    *_list(
        'tensorflow', 'ade20k', 151, _TENSORFLOW,
        'deeplab_v3plus_xception65_os16 - - 41_088_823 deeplabv3_xception_ade20k_train',
        note='45.65 mIoU over seven scales, each mirrored too, at output stride 8',
    ),
    *_list(
        'tensorflow', '', 0, _TENSORFLOW,
        'xception41 - - 24_920_560 xception_41',
        'xception65 - - 37_867_312 deeplabv3_xception',
        'xception71 - - 40_289_736 xception_71',
        'resnet50_beta - - 23_631_808 resnet_v1_50',
        'resnet101_beta - - 42_623_936 resnet_v1_101',
        note='name the unpacked folder after its archive',
    ),
    *_list(
        'bowenc0221', '', 0, _BOWENC0221_TOOLS,
        'xception65 - - 37_867_312 tf-xception65-270e81cf.pth',
    ),
    *_list(
        'bowenc0221', '', 0, _HRNET,
        'hrnet_w18 - - 9_562_260 hrnetv2_w18_imagenet_pretrained.pth',
        'hrnet_w32 - - 29_305_536 hrnetv2_w32_imagenet_pretrained.pth',
        'hrnet_w48 - - 65_325_120 hrnetv2_w48_imagenet_pretrained.pth',
    ),
    *_list(
        'detectron2', '', 0, _DETECTRON2_DEEPLAB,
        'resnet50_beta - - 23_631_808 R-52.pkl',
        'resnet101_beta - - 42_623_936 R-103.pkl',
    ),
    *_list(
        'detectron2', '', 0, _DETECTRON2_ZOO,
        'resnet50 - - 23_508_032 R-50.pkl',
        'resnet101 - - 42_500_160 R-101.pkl',
        note="of MSRA: takes blue, green, red without a deviation, turned to the network's order; "
        'those of the folder torchvision convert too',
    ),
    *_list(
        'detectron2', '', 0, _DETECTRON2_ZOO,
        'resnext101_32x8d - - 86_742_336 X-101-32x8d.pkl',
        note='takes blue, green, red, turned to red, green, blue',
    ),
    *_list(
        'deeplab2', '', 0, _DEEPLAB2_IMAGENET,
        'resnet50 - - 23_508_032',
        'mobilenet_v3_small - - 927_008',
        'mobilenet_v3_large - - 2_971_952',
        file='{}_imagenet1k',
    ),
    *_list(
        'deeplab2', '', 0, _DEEPLAB2_IMAGENET,
        'resnet50 - - 23_508_032',
        'resnet50_beta - - 23_631_808',
        'wide_resnet41 - - 109_014_080',
        'max_s - - 41_343_424 max_deeplab_s_backbone_imagenet1k_strong_training_strategy',
        'max_s_gelu - - 41_343_424 maxs_gelu_imagenet_22k_1k_224',
        'swidernet_sac_1_1_1 - - 112_951_874',
        'swidernet_sac_1_1_3 - - 345_059_912',
        'swidernet_sac_1_1_4.5 - - 504_519_244',
        'axial_swidernet_1_1_1 - - 136_399_392',
        'axial_swidernet_1_1_3 - - 393_935_520',
        'axial_swidernet_1_1_4.5 - - 570_346_912',
        file='{}_imagenet1k_strong_training_strategy',
    ),
    *_list(
        'torchvision', '', 0, _TORCHVISION,
        'resnet18 - - 11_176_512 resnet18-f37072fd.pth',
        'resnet34 - - 21_284_672 resnet34-b627a593.pth',
        'resnet50 - - 23_508_032 resnet50-0676ba61.pth',
        'resnet50 - - 23_508_032 resnet50-11ad3fa6.pth',
        'resnet101 - - 42_500_160 resnet101-63fe2227.pth',
        'resnet101 - - 42_500_160 resnet101-cd907fc2.pth',
        'resnet152 - - 58_143_808 resnet152-394f9c45.pth',
        'resnet152 - - 58_143_808 resnet152-f82ba261.pth',
        'resnext50_32x4d - - 22_979_904 resnext50_32x4d-7cdf4587.pth',
        'resnext50_32x4d - - 22_979_904 resnext50_32x4d-1a0047aa.pth',
        'resnext101_32x8d - - 86_742_336 resnext101_32x8d-8ba56ff5.pth',
        'resnext101_32x8d - - 86_742_336 resnext101_32x8d-110c445d.pth',
        'resnext101_64x4d - - 81_406_272 resnext101_64x4d-173b62eb.pth',
        'wide_resnet50_2 - - 66_834_240 wide_resnet50_2-95faca4d.pth',
        'wide_resnet50_2 - - 66_834_240 wide_resnet50_2-9ba9bcbe.pth',
        'wide_resnet101_2 - - 124_837_696 wide_resnet101_2-32ee1156.pth',
        'wide_resnet101_2 - - 124_837_696 wide_resnet101_2-d733dc28.pth',
        'mobilenet_v2 - - 1_811_712 mobilenet_v2-b0353104.pth',
        'mobilenet_v2 - - 1_811_712 mobilenet_v2-7ebf99e0.pth',
        'vgg16 - - 14_714_688 vgg16-397923af.pth',
        'mobilenet_v3_large - - 2_971_952 mobilenet_v3_large-8738ca79.pth',
        'mobilenet_v3_large - - 2_971_952 mobilenet_v3_large-5c1a4163.pth',
        'mobilenet_v3_small - - 927_008 mobilenet_v3_small-047dcff4.pth',
        'convnext_tiny - - 27_818_592 convnext_tiny-983f1562.pth',
        'convnext_small - - 49_453_152 convnext_small-0c510722.pth',
        'convnext_base - - 87_564_416 convnext_base-6075fbad.pth',
        'convnext_large - - 196_227_264 convnext_large-ea097f82.pth',
    ),
    *_list(
        'convnext', '', 0, _CONVNEXT,
        'convnext_tiny - - 27_818_592',
        'convnext_small - - 49_453_152',
        'convnext_base - - 87_564_416',
        'convnext_large - - 196_227_264',
        file='{}_22k_1k_384.pth', note="trained on ImageNet-22K first, as kMaX-DeepLab's",
    ),
    *_list(
        'convnext', '', 0, _CONVNEXT,
        'convnext_tiny - - 27_818_592',
        'convnext_small - - 49_453_152',
        'convnext_base - - 87_564_416',
        'convnext_large - - 196_227_264',
        file='{}_1k_224_ema.pth',
    ),
    *_list(
        'timm', '', 0, _TIMM,
        'convnext_tiny - - 27_818_592',
        'convnext_small - - 49_453_152',
        'convnext_base - - 87_564_416',
        'convnext_large - - 196_227_264',
        file='{}.fb_in22k_ft_in1k_384.safetensors',
        note=_SAVE_TIMM,
    ),
    *_list(
        'timm', '', 0, _TIMM,
        'resnet50d - - 23_527_264 resnet50d.ra2_in1k.safetensors',
        'resnet101d - - 42_519_392 resnet101d.ra2_in1k.safetensors',
        'mobilenet_v3_large - - 2_971_952 mobilenetv3_large_100.ra_in1k.safetensors',
        'mobilenet_v3_small - - 927_008 mobilenetv3_small_100.lamb_in1k.safetensors',
        'hrnet_w18 - - 9_562_260 hrnet_w18.ms_in1k.safetensors',
        'hrnet_w32 - - 29_305_536 hrnet_w32.ms_in1k.safetensors',
        'hrnet_w48 - - 65_325_120 hrnet_w48.ms_in1k.safetensors',
        note=_SAVE_TIMM,
    ),
    *_list(
        'keras', '', 0, _KERAS,
        'mobilenet_v2 - - 250_208 mobilenet_v2_0.35.npz',
        'mobilenet_v2 - - 480_320 mobilenet_v2_0.5.npz',
        'mobilenet_v2 - - 1_045_664 mobilenet_v2_0.75.npz',
        'mobilenet_v2 - - 1_811_712 mobilenet_v2_1.0.npz',
        'mobilenet_v2 - - 3_026_240 mobilenet_v2_1.3.npz',
        'mobilenet_v2 - - 3_509_376 mobilenet_v2_1.4.npz',
        note='write this file from the .h5 with Keras and numpy.savez, by the names of the weights',
    ),
)  # fmt: skip
