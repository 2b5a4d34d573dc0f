"""Keys and shapes of DeepLab2's networks with attention, from the attributes of its classes."""

import math

from tests.convert.test_convert_deeplab2 import (
    biased,
    conv,
    depthwise,
    list_decoder,
    list_resnet,
    list_wide_resnet,
    norm,
    separable,
)

CONVNEXTS = {'convnext_tiny': ((3, 3, 9, 3), 96), 'convnext_large': ((3, 3, 27, 3), 192)}
# Channels of the stem and of the four stages.
FEATURES = {
    'resnet50': (64, 256, 512, 1024, 2048),
    'max_s': (128, 256, 512, 1024, 2048),
    **{name: (width, *(width * 2**i for i in range(4))) for name, (_, width) in CONVNEXTS.items()},
}
HEADS, SPAN = 8, 509


def plain_norm(name, *shape, is_layer_norm=False):
    fields = (
        ('gamma', 'beta') if is_layer_norm else ('gamma', 'beta', 'moving_mean', 'moving_variance')
    )
    return {f'{name}/{field}': shape for field in fields}


def conv1d(name, inputs, outputs):
    return {f'{name}/_conv/kernel': (1, inputs, outputs), **norm(name, outputs)}


def attention(name, inputs, filters):
    """Height axis first; values have twice the channels of keys."""
    keys = {}
    for axis in ('height', 'width'):
        layer = f'{name}/_attention/_{axis}_axis'
        keys[f'{layer}/qkv_kernel'] = (inputs, 4 * filters)
        keys |= plain_norm(f'{layer}/_batch_norm_qkv', 4 * filters)
        keys |= plain_norm(f'{layer}/_batch_norm_similarity', 3, 1, HEADS, 1, 1)
        depth = 2 * filters // HEADS
        keys |= plain_norm(f'{layer}/_batch_norm_retrieved_output', 2, 1, HEADS, 1, depth)
        for kind, channels in (('query', depth // 2), ('key', depth // 2), ('value', depth)):
            keys[f'{layer}/_{kind}_rpe/embeddings'] = (SPAN, channels)
        inputs = 2 * filters
    return keys


def unit(name, inputs, filters, is_axial, key_expansion=1):
    keys = {} if inputs == 4 * filters else conv(f'{name}/_shortcut', 1, inputs, 4 * filters)
    width = 2 * key_expansion * filters if is_axial else filters
    keys |= conv(f'{name}/_conv1_bn_act', 1, inputs, width)
    if is_axial:
        keys |= attention(name, width, key_expansion * filters)
    else:
        keys |= conv(f'{name}/_conv2_bn_act', 3, filters, filters)
    return keys | conv(f'{name}/_conv3_bn', 1, width, 4 * filters)


def list_axial_swidernet():
    """SWideRNet-(1, 1, 1) that attends beyond stride 16, with wider keys and values."""
    places = [f'_stage{stage}/_block{block}' for stage in (4, 5) for block in (1, 2, 3)][1:]
    keys = {
        key: shape
        for key, shape in list_wide_resnet(False).items()
        if not key.startswith(tuple(f'{place}/' for place in places))
    }
    inputs = 1024
    for place in places:
        filters = 512 if place.startswith('_stage5') else 256
        keys |= unit(place, inputs, filters, True, 2)
        inputs = 4 * filters
    return keys


def project_context(keys, channels):
    """Leaves of each ASPP its last convolution, which then reads the encoder."""
    last = '_aspp/_proj_conv_bn_act'
    return {
        key: (1, 1, channels, 256) if key.endswith(f'{last}/_conv/kernel') else shape
        for key, shape in keys.items()
        if '_aspp/' not in key or last in key
    }


def list_max_s():
    """ResNet-50-beta that attends beyond stride 16: all but the first unit of stage 4, stage 5."""
    keys = {
        key: shape
        for key, shape in list_resnet(True).items()
        if not key.startswith(('_stage4', '_stage5'))
    }
    inputs = 512
    for stage, filters, count in ((4, 256, 6), (5, 512, 3)):
        for block in range(1, count + 1):
            is_axial = (stage, block) != (4, 1)
            keys |= unit(f'_stage{stage}/_block{block}', inputs, filters, is_axial)
            inputs = 4 * filters
    return keys


def list_axial(multiplier, is_beta):
    """An Axial-ResNet, which attends in all units."""
    stem = {key: shape for key, shape in list_resnet(is_beta).items() if key.startswith('_stem')}
    keys, inputs = dict(stem), 128 if is_beta else 64
    for stage, count in enumerate((3, 4, 6, 3), 2):
        filters = round(multiplier * 16 * 2**stage)
        for block in range(1, count + 1):
            keys |= unit(f'_stage{stage}/_block{block}', inputs, filters, True)
            inputs = 4 * filters
    return keys


def list_exchange(pixels):
    """A layer of MaX-DeepLab's transformer."""
    keys = {}
    for name, inputs in (('memory', 256), ('pixel', pixels)):
        keys |= conv1d(f'_{name}_conv1_bn_act', inputs, 256)
        keys |= conv1d(f'_{name}_qkv_conv_bn', 256, 512)
        keys |= list_attention_norms(f'_{name}_attention')
        keys |= conv1d(f'_{name}_conv3_bn', 256, inputs)
    return keys | list_ffn()


def list_max_encoder(infix):
    """MaX-DeepLab-S without its heads; the names of fusions have `infix`."""
    keys = {'memory_feature': (1, 128, 256), **list_max_s()}
    names = [f'_stage5/_block{i}_transformer' for i in (1, 2, 3)]
    for name in (*names, '_stage5_extra/_block1_transformer'):
        keys |= put_under(name, list_exchange(2048))
    keys |= unit('_stage5_extra/_block1', 2048, 512, True)
    for i, inputs, outputs in ((1, 2048, 512), (2, 512, 256)):
        stage = f'_decoder_stage{i}'
        keys |= conv(f'{stage}{infix}_resized_fuse/_resized_conv_bn1', 1, inputs, outputs)
        keys |= unit(f'{stage}_extra/_block1', outputs, outputs // 4, False)
    for name in ('class', 'mask'):
        keys |= conv1d(f'_{name}_feature_extra', 256, 256)
    return put_under('encoder', keys)


def list_max(infix):
    heads = list_predictor('', 256, 133) | list_semantic(FEATURES['max_s'], 133, False)
    return list_max_encoder(infix) | heads


def list_attention_norms(name):
    return {
        **plain_norm(f'{name}/_batch_norm_similarity', HEADS),
        **plain_norm(f'{name}/_batch_norm_retrieved_value', 1, HEADS, 1, 256 // HEADS),
    }


def list_ffn():
    return {
        **conv1d('_memory_ffn_conv1_bn_act', 256, 2048),
        **conv1d('_memory_ffn_conv2_bn', 2048, 256),
    }


def list_convnext(name):
    counts, width = CONVNEXTS[name]
    keys = {}
    for stage, count in enumerate(counts):
        channels = width * 2**stage
        layer = f'downsample_layers/{stage}/layer_with_weights'
        if stage == 0:
            keys |= biased(f'{layer}-0', 4, 3, channels)
            keys |= plain_norm(f'{layer}-1', channels, is_layer_norm=True)
        else:
            keys |= plain_norm(f'{layer}-0', channels // 2, is_layer_norm=True)
            keys |= biased(f'{layer}-1', 2, channels // 2, channels)
        for i in range(count):
            block = f'stages/{stage}/layer_with_weights-{i}'
            keys |= biased(f'{block}/depthwise_conv', 7, 1, channels)
            keys |= plain_norm(f'{block}/norm', channels, is_layer_norm=True)
            for number, sizes in ((1, (channels, 4 * channels)), (2, (4 * channels, channels))):
                keys[f'{block}/pointwise_conv{number}/kernel'] = sizes
                keys[f'{block}/pointwise_conv{number}/bias'] = sizes[1:]
            keys[f'{block}/layer_scale'] = (1, 1, 1, channels)
    return keys


def list_encoder(backbone):
    if backbone == 'resnet50':
        return list_resnet(False)
    return list_max_s() if backbone == 'max_s' else list_convnext(backbone)


def list_pixel_decoder(features):
    """From features coarse to fine."""
    keys, inputs = {}, features[0]
    for i, channels in enumerate(features):
        keys |= plain_norm(f'_backbone_norms/{i}', channels, is_layer_norm=True)
        filters = 512 // 2**i
        if i:
            fusion = f'_skip_connections/{i - 1}/_resized_conv_bn'
            keys |= conv(f'{fusion}1', 1, inputs, filters)
            if channels != filters:
                keys |= conv(f'{fusion}2', 1, channels, filters)
            inputs = filters
        for block in range(1, 6 if i == 1 else 2):
            keys |= unit(f'_stages/{i}/_block{block}', inputs, filters, i < 2)
            inputs = 4 * filters
    return keys


def list_predictor(prefix, inputs, num_classes):
    head = f'{prefix}pixel_space_head'
    return {
        **depthwise(f'{head}/conv_block/_conv1_bn_act/_depthwise', 5, inputs),
        **conv(f'{head}/conv_block/_conv1_bn_act/_pointwise', 1, inputs, 256),
        **biased(f'{head}/final_conv', 1, 256, 128),
        **plain_norm(f'{prefix}pixel_space_feature_batch_norm', 128),
        **plain_norm(f'{prefix}pixel_space_mask_batch_norm', 1),
        **conv1d(f'{prefix}transformer_mask_head', 256, 128),
        f'{prefix}transformer_class_head/_conv/kernel': (1, 256, num_classes + 1),
        f'{prefix}transformer_class_head/_conv/bias': (num_classes + 1,),
    }


def list_layer(inputs, num_classes):
    return {
        **conv1d('_pixel_conv1_bn_act', inputs, 256),
        **conv1d('_memory_conv1_bn_act', 256, 256),
        **conv1d('_pixel_v_conv_bn', 256, 256),
        **conv1d('_memory_qkv_conv_bn', 256, 512),
        **list_attention_norms('_memory_attention'),
        **conv1d('_memory_conv3_bn', 256, 256),
        **list_ffn(),
        **plain_norm('_kmeans_memory_batch_norm_retrieved_value', 256),
        **conv1d('_kmeans_memory_conv3_bn', 256, 256),
        **list_predictor('_auxiliary_clustering_predictor/_', 256, num_classes),
    }


def list_semantic(features, num_classes, is_cityscapes):
    head = 'semantic_head_without_last_layer/_conv1_bn_act'
    if is_cityscapes:
        return separable(head, features[-1], 256) | biased(
            'semantic_last_layer', 1, 256, num_classes
        )
    channels = (features[1], features[2], features[-1])
    return {
        **list_decoder('semantic', channels, (64, 32), 256),
        **separable(head, 256, 256),
        **biased('semantic_last_layer', 1, 256, num_classes + 1),
    }


def list_parts(backbone, dataset):
    """Returns keys and shapes by the part of the network."""
    num_classes = {'coco': 133, 'cityscapes': 19, 'ade20k': 150}[dataset]
    is_cityscapes = dataset == 'cityscapes'
    features = FEATURES[backbone]
    decoded = features[::-1] if is_cityscapes else features[:0:-1]
    layers = [list_layer(4 * width, num_classes) for width in (512, 512, 256, 256, 128, 128)]
    decoder = 'transformer_decoder'
    return {
        'backbone': put_under('encoder', list_encoder(backbone)),
        'pixel_decoder': put_under('pixel_decoder', list_pixel_decoder(decoded)),
        'transformer_layers': {
            key: shape
            for i, layer in enumerate(layers)
            for key, shape in put_under(
                f'{decoder}/_kmax_decoder/{i}/_block1_transformer', layer
            ).items()
        },
        'cluster_centers': {f'{decoder}/cluster_centers': (1, 256 if is_cityscapes else 128, 256)},
        'class_embedding': conv1d(f'{decoder}/_class_embedding_projection', 256, 256),
        'mask_embedding': conv1d(f'{decoder}/_mask_embedding_projection', 256, 256),
        'final_predictor': list_predictor('', 128 if is_cityscapes else 256, num_classes),
        'aux_semantic': list_semantic(features, num_classes, is_cityscapes),
    }


def count_parameters(keys):
    """Counts the trainable values."""
    return sum(math.prod(shape) for key, shape in keys.items() if '/moving_' not in key)


def put_under(prefix, keys):
    return {f'{prefix}/{key}': shape for key, shape in keys.items()}
