"""Checkpoints of kMaX-DeepLab in DeepLab2 fill the networks, as those of the PyTorch program do."""

import json
import re

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from pdl_jax.commands.command_line import main
from pdl_jax.convert.classes import make_spec, order_classes
from pdl_jax.convert.contents import Contents
from pdl_jax.convert.conversion import choose_network, guess_network, load
from pdl_jax.convert.sources import SOURCES
from pdl_jax.prediction.predictor import Predictor
from pdl_jax.storage.checkpoint import find_checkpoint, read_description
from tests import kmax_goldens
from tests.convert.deeplab2_keys import count_parameters, list_encoder, list_parts
from tests.convert.test_convert_deeplab2 import SUFFIX, make_contents

SOURCE = SOURCES['deeplab2']
NETWORKS = [
    ('max_s', 'cityscapes', 19),
    *(
        pytest.param(*network, marks=pytest.mark.slow)
        for network in (
            ('resnet50', 'coco', 133),
            ('resnet50', 'cityscapes', 19),
            ('resnet50', 'ade20k', 150),
            ('convnext_tiny', 'coco', 133),
            ('convnext_large', 'cityscapes', 19),
        )
    ),
]
NORM = {
    'weight': 'gamma',
    'bias': 'beta',
    'running_mean': 'moving_mean',
    'running_var': 'moving_variance',
}
HEAD = 'sem_seg_head'
LAYER = rf'{HEAD}\.predictor\._kmax_transformer_layers\.(\d)'
TF_LAYER = r'transformer_decoder/_kmax_decoder/\1/_block1_transformer'
STAGE = rf'{HEAD}\.pixel_decoder\._stages\.(\d)\._blocks\.(\d)'
SEMANTIC = rf'{HEAD}\.predictor\._auxiliary_semantic_predictor'


@pytest.mark.parametrize(('backbone', 'dataset', 'num_classes'), NETWORKS)
def test_every_key_is_used_and_every_variable_filled(backbone, dataset, num_classes):
    parts = list_parts(backbone, dataset)
    keys = {key: shape for part in parts.values() for key, shape in part.items()}
    conversion = choose_network(make_contents(keys), SOURCE, f'kmax_deeplab2/{backbone}_{dataset}')
    account = conversion.account
    assert not account.num_faults, (account.unexpected, account.missing, account.mismatched)
    assert len(account.loaded) == len(keys)
    assert (conversion.num_classes, conversion.is_backbone_only) == (num_classes, False)


@pytest.mark.parametrize('name', ['r50/coco', 'r50/ade20k', 'convnext_tiny/coco'])
def test_the_listed_keys_have_the_parameters_of_the_original(name, shared_dir):
    counts = json.loads((shared_dir / 'golden' / 'kmax' / 'parameters.json').read_text())[name]
    backbone, dataset = name.replace('r50', 'resnet50').split('/')
    parts = list_parts(backbone, dataset)
    assert {part: count_parameters(keys) for part, keys in parts.items()} == {
        part: counts[part] for part in parts
    }
    assert sum(map(count_parameters, parts.values())) == counts['total']


@pytest.mark.parametrize('prefix', ['encoder', 'backbone/_encoder'])
def test_the_encoder_alone_is_a_backbone(prefix):
    keys = {f'{prefix}/{key}': shape for key, shape in list_encoder('max_s').items()}
    with pytest.raises(ValueError, match='--preset: imagenet/max_s, imagenet/max_s_gelu'):
        guess_network(make_contents(keys), SOURCE)
    conversion = choose_network(make_contents(keys), SOURCE, 'imagenet/max_s_gelu')
    assert conversion.is_backbone_only and not conversion.account.num_faults


def test_things_before_stuff_become_the_order_of_the_classes():
    spec = make_spec('cityscapes', 19)
    names = [c.name for c in spec.categories]
    things = [c.name for c in spec.categories if c.is_thing]
    stored = [*things, *(name for name in names if name not in things), 'void']
    ids = np.array([[names.index(name) if name in names else -1 for name in stored]], np.float32)
    layer = {'class_logits': {'kernel': ids[None, None], 'bias': ids[0]}, 'other': {'bias': ids[0]}}
    variables = {'params': {'predictor': layer, 'layer1': {'predictor': layer}}}
    ordered = order_classes(variables, spec.label_format)
    assert stored[0] == 'person'
    for found in (ordered['params']['predictor'], ordered['params']['layer1']['predictor']):
        assert [*found['class_logits']['bias']] == [*range(19), -1]
        assert [*found['class_logits']['kernel'][0, 0, 0]] == [*range(19), -1]
        np.testing.assert_array_equal(found['other']['bias'], ids[0])
    # COCO's things come first in its own order.
    coco = {'class_logits': {'bias': np.arange(134)}}
    found = order_classes({'params': coco}, make_spec('coco', 133, counts_void=False).label_format)
    np.testing.assert_array_equal(found['params']['class_logits']['bias'], np.arange(134))


# Modules of a convolution with its BatchNorm, and those of a BatchNorm alone. {n+1} adds.
CONVS = {
    r'backbone\.stem\.conv1': 'encoder/_stem',
    r'backbone\.res(\d)\.(\d)\.(conv[12])': r'encoder/_stage\1/_block{2+1}/_\3_bn_act',
    r'backbone\.res(\d)\.(\d)\.conv3': r'encoder/_stage\1/_block{2+1}/_conv3_bn',
    r'backbone\.res(\d)\.(\d)\.shortcut': r'encoder/_stage\1/_block{2+1}/_shortcut',
    rf'{STAGE}\.(_\w+)': r'pixel_decoder/_stages/\1/_block{2+1}/\3',
    rf'{HEAD}\.pixel_decoder\._resized_fuses\.(\d)\._conv_bn_low': (
        r'pixel_decoder/_skip_connections/\1/_resized_conv_bn1'
    ),
    rf'{HEAD}\.pixel_decoder\._resized_fuses\.(\d)\._conv_bn_high': (
        r'pixel_decoder/_skip_connections/\1/_resized_conv_bn2'
    ),
    rf'{LAYER}\._kmeans_query_conv3_bn': rf'{TF_LAYER}/_kmeans_memory_conv3_bn',
    rf'{LAYER}\._query_(\w+)': rf'{TF_LAYER}/_memory_\2',
    rf'{LAYER}\._(pixel_\w+)': rf'{TF_LAYER}/_\2',
    rf'{HEAD}\.predictor\._(\w+)_embedding_projection': (
        r'transformer_decoder/_\1_embedding_projection'
    ),
    rf'{SEMANTIC}\._aspp\._aspp_conv0': 'semantic_decoder/_aspp/_conv_bn_act',
    rf'{SEMANTIC}\._aspp\._(aspp_conv[123]|aspp_pool)': r'semantic_decoder/_aspp/_\1/_conv_bn_act',
    rf'{SEMANTIC}\._aspp\._proj_conv_bn_act': 'semantic_decoder/_aspp/_proj_conv_bn_act',
    rf'{SEMANTIC}\._low_level_projection_os8': 'semantic_decoder/_low_level_conv1',
    rf'{SEMANTIC}\._low_level_projection_os4': 'semantic_decoder/_low_level_conv2',
}
SEPARABLES = {
    rf'{SEMANTIC}\._low_level_fusion_os8_conv(\d)_bn_act': 'semantic_decoder/_fusion_conv1',
    rf'{SEMANTIC}\._low_level_fusion_os4_conv(\d)_bn_act': 'semantic_decoder/_fusion_conv2',
    rf'{SEMANTIC}\.conv_block_(\d)': 'semantic_head_without_last_layer',
}
NORMS = {
    rf'{HEAD}\.pixel_decoder\._in_norms\.(\d)': r'pixel_decoder/_backbone_norms/\1',
    rf'{STAGE}\._attention\.(\w+)\.(_batch_norm_\w+)': (
        r'pixel_decoder/_stages/\1/_block{2+1}/_attention/\3/\4'
    ),
    rf'{LAYER}\._kmeans_query_batch_norm_retrieved_value': (
        rf'{TF_LAYER}/_kmeans_memory_batch_norm_retrieved_value'
    ),
    rf'{LAYER}\._query_self_attention\.(\w+)': rf'{TF_LAYER}/_memory_attention/\2',
}
BLOCK = 'pixel_space_head/conv_block/_conv1_bn_act'
PREDICTOR = {
    '_pixel_space_head_conv0bnact.conv.weight': (
        f'{BLOCK}/_depthwise/_depthwise_conv/depthwise_kernel'
    ),
    '_pixel_space_head_conv0bnact.norm': f'{BLOCK}/_depthwise/_batch_norm',
    '_pixel_space_head_conv1bnact.conv': f'{BLOCK}/_pointwise/_conv',
    '_pixel_space_head_conv1bnact.norm': f'{BLOCK}/_pointwise/_batch_norm',
    '_pixel_space_head_last_convbn.conv': 'pixel_space_head/final_conv',
    '_pixel_space_head_last_convbn.norm': 'pixel_space_feature_batch_norm',
    '_pixel_space_mask_batch_norm': 'pixel_space_mask_batch_norm',
    '_transformer_class_head.conv': 'transformer_class_head/_conv',
    '_transformer_mask_head.conv': 'transformer_mask_head/_conv',
    '_transformer_mask_head.norm': 'transformer_mask_head/_batch_norm',
}


def fill(pattern, template, module):
    match = re.fullmatch(pattern, module)
    if not match:
        return None
    template = re.sub(r'\{(\d)\+1\}', lambda m: str(int(match[int(m[1])]) + 1), template)
    return match.expand(template)


def rename(key):
    """The key of DeepLab2 for one of the PyTorch program."""
    if key.endswith('_cluster_centers.weight'):
        return 'transformer_decoder/cluster_centers'
    if match := re.fullmatch(rf'{STAGE}\._attention\.(\w+)\.(.*)', key):
        place = f'pixel_decoder/_stages/{match[1]}/_block{int(match[2]) + 1}/_attention/{match[3]}'
        if match[4] == 'qkv_transform.conv.weight':
            return f'{place}/qkv_kernel'
        if '_rpe.' in match[4]:
            return f'{place}/{match[4].split(".")[0]}/embeddings'
    if '._predcitor.' in key:
        owner, _, name = key.partition('._predcitor.')
        layer = fill(LAYER, TF_LAYER, owner)
        prefix = f'{layer}/_auxiliary_clustering_predictor/_' if layer else ''
        if name in PREDICTOR:
            return prefix + PREDICTOR[name]
        module, _, field = name.rpartition('.')
        fields = NORM if 'norm' in module else {'weight': 'kernel', 'bias': 'bias'}
        return f'{prefix}{PREDICTOR[module]}/{fields[field]}'
    module, _, field = key.rpartition('.')
    if module == f'{HEAD}.predictor._auxiliary_semantic_predictor.final_conv.conv':
        return f'semantic_last_layer/{dict(weight="kernel", bias="bias")[field]}'
    for pattern, template in NORMS.items():
        if found := fill(pattern, template, module):
            return f'{found}/{NORM[field]}'
    is_norm = module.endswith('.norm')
    layer = module.removesuffix('.norm').removesuffix('.conv')
    for pattern, template in SEPARABLES.items():
        if match := re.fullmatch(pattern, layer):
            part = ('_depthwise', '_pointwise')[int(match[1])]
            kernel = ('_depthwise_conv/depthwise_kernel', '_conv/kernel')[int(match[1])]
            last = f'_batch_norm/{NORM[field]}' if is_norm else kernel
            return f'{template}/_conv1_bn_act/{part}/{last}'
    for pattern, template in CONVS.items():
        if found := fill(pattern, template, layer):
            return f'{found}/_batch_norm/{NORM[field]}' if is_norm else f'{found}/_conv/kernel'
    raise AssertionError(key)


def lay_out(key, x, shape):
    """An array of PyTorch's layout in that of DeepLab2."""
    if key == 'transformer_decoder/cluster_centers':
        x = x.T
    elif key.endswith('depthwise_kernel'):
        x = x.transpose(2, 3, 0, 1)
    elif key.endswith(('kernel', 'qkv_kernel')):
        x = np.moveaxis(x, (0, 1), (-1, -2))
    if key.startswith('semantic_last_layer'):
        # DeepLab2's label 0 is void.
        x = np.roll(x, 1, axis=-1)
    return x.reshape(shape)


@pytest.mark.slow
def test_values_are_those_of_the_pytorch_program(shared_dir):
    torch_arrays = kmax_goldens.draw_weights(shared_dir, 'r50_coco')
    _, expected = kmax_goldens.convert(torch_arrays, 'r50_coco')
    shapes = {key: s for part in list_parts('resnet50', 'coco').values() for key, s in part.items()}
    arrays = {}
    for key, x in torch_arrays.items():
        if key.endswith('num_batches_tracked') or not key.startswith(('backbone', HEAD)):
            continue
        name = rename(key)
        arrays[f'{name}{SUFFIX}'] = lay_out(name, x, shapes.pop(name))
    assert not shapes
    contents = Contents(arrays)
    conversion = choose_network(contents, SOURCE, 'kmax_deeplab2/resnet50_coco')
    assert not conversion.account.num_faults
    found, wanted = (flatten_dict(tree, sep='/') for tree in (load(conversion, contents), expected))
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.slow
def test_the_command_knows_the_dataset_and_its_configuration(tmp_path, capsys):
    shapes = {
        k: s for part in list_parts('resnet50', 'cityscapes').values() for k, s in part.items()
    }
    arrays = {f'{key}{SUFFIX}': np.zeros(shape, np.float32) for key, shape in shapes.items()}
    for key, value in arrays.items():
        if 'transformer_class_head/' in key:
            value += np.arange(20)
    file = tmp_path / 'kmax_resnet50_cityscapes_train.npz'
    np.savez_compressed(file, **arrays)
    preset = 'kmax_deeplab2/resnet50_cityscapes'
    flags = [f'--preset={preset}', f'--input={file}', f'--output={tmp_path / "out"}']
    main(['convert', '--from=deeplab2', *flags])
    assert 'takes the classes for those of cityscapes' in capsys.readouterr().out
    checkpoint = find_checkpoint(tmp_path / 'out')
    description = read_description(checkpoint)
    assert description['config']['model']['preset'] == preset
    assert description['config']['postprocess']['convention'] == 'deeplab2'
    assert len(description['dataset']['categories']) == 19
    variables = Predictor.load(tmp_path / 'out').variables
    for owner in (variables['params'], variables['params']['layer6']):
        found = np.asarray(owner['predictor']['class_logits']['bias'])
        # Things are channels 0 .. 7 of the file and classes 11 .. 18.
        assert [*found] == [*range(8, 19), *range(8), 19]
