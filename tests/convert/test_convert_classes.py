"""The classes of logits are named on evidence only."""

import json

import pytest

from pdl_jax.convert import classes
from pdl_jax.convert.networks import Network
from pdl_jax.convert.source import list_config_fields
from pdl_jax.convert.sources import SOURCES
from pdl_jax.data import catalog
from pdl_jax.presets import make_any_network

KITTI = 'resnet50_os32_panoptic_deeplab_kitti_train/ckpt-30000'


@pytest.mark.parametrize(
    ('num_classes', 'file', 'dataset'),
    [
        (19, 'panoptic_deeplab_R50_os32_cityscapes.pth', 'cityscapes'),
        (19, 'resnet50_os32_panoptic_deeplab_cityscapes_trainfine/ckpt-60000', 'cityscapes'),
        (19, 'model_final_bd324a.pkl', 'cityscapes'),
        (19, KITTI, 'kitti_step'),
        (19, 'kitti_from_cityscapes.pth', ''),
        (19, 'runs/model_final.pth', ''),
        # Farther up, a name says little.
        (19, 'cityscapes/a/b/model_final.pth', ''),
        (21, 'deeplabv3_resnet50_coco-cd0a2569.pth', 'voc'),
        (21, 'lraspp_mobilenet_v3_large-d234d4ea.pth', 'voc'),
        (21, 'deeplabv3_mnv2_1.0_voc/folded_f32.npz', 'voc'),
        (21, 'deeplabv3_of_mine.pth', ''),
        (7, 'model_final_cityscapes.pth', ''),
        (133, 'model.pth', 'coco'),
        (134, 'ckpt-1', 'coco'),
    ],
)
def test_data_set_is_found_by_evidence(num_classes, file, dataset):
    found, evidence = classes.find_dataset(num_classes, file)
    assert found == dataset
    assert bool(evidence) == bool(dataset)


def test_unknown_classes_have_a_remedy():
    message = classes.explain_unknown(19, 'model_final.pth')
    assert 'as cityscapes and kitti_step have, but nothing says that they are these' in message
    assert '--dataset=cityscapes, --dataset=kitti_step, --dataset=DIRECTORY' in message
    message = classes.explain_unknown(7, 'model_final.pth')
    names = 'ade20k, cityscapes, coco, coco_ids, kitti_step, voc'
    assert f'has 7 classes, as none of {names} has: give --dataset=' in message


def test_kitti_step_has_two_things_and_its_own_rules():
    spec = classes.make_spec('kitti_step', 19)
    assert spec.class_names == catalog.cityscapes().class_names
    assert [spec.class_names[i] for i in spec.label_format.thing_classes] == ['person', 'car']
    fields = SOURCES['deeplab2'].config_fields['kitti_step']
    assert fields['postprocess.stuff_area_limit_px'] == 0
    assert (fields['augment.crop_height_px'], fields['augment.crop_width_px']) == (385, 1249)
    network = Network('', make_any_network('deeplab2/resnet50_os32'))
    assert classes.find_config('kitti_step', network) == 'cityscapes'


def test_mask_transformers_have_configurations_and_rules_of_their_own():
    source = SOURCES['deeplab2']
    name = 'kmax_deeplab2/resnet50_cityscapes'
    network = Network(name, make_any_network(name))
    assert classes.find_config('cityscapes', network) == 'cityscapes_kmax'
    assert list_config_fields(source, network, 'cityscapes') == {}
    with pytest.raises(ValueError, match='--dataset=voc needs --config=FILE'):
        classes.find_config('voc', network)
    name = 'deeplab2/mobilenet_v3_small_os16'
    fields = list_config_fields(source, Network(name, make_any_network(name)), 'cityscapes')
    assert fields == {'postprocess.nms_kernel_px': 7, 'postprocess.max_centers': 400}


def test_list_of_categories_is_checked(tmp_path):
    path = tmp_path / 'c.json'
    path.write_text(json.dumps([{'id': 1, 'name': 'leaf', 'isthing': 1}]))
    assert classes.make_spec(str(path), 1).class_names == ('leaf',)
    with pytest.raises(ValueError, match='network has 2 classes, --dataset=.*c.json 1'):
        classes.make_spec(str(path), 2)
    path.write_text('{}')
    with pytest.raises(ValueError, match='c.json must be a list'):
        classes.make_spec(str(path), 1)
    with pytest.raises(FileNotFoundError, match='absent.json'):
        classes.make_spec(str(tmp_path / 'absent.json'), 1)


def test_networks_of_one_source_may_have_rules_of_their_own():
    deeplab2 = SOURCES['deeplab2']
    for size in ('small', 'large'):
        fields = deeplab2.network_fields['cityscapes', f'deeplab2/mobilenet_v3_{size}_os16']
        assert fields == {'postprocess.nms_kernel_px': 7}
    assert deeplab2.config_fields['cityscapes']['postprocess.nms_kernel_px'] == 13
