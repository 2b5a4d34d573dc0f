"""kMaX-DeepLab with ResNet-50 for COCO, with the keys of bytedance/kmax-deeplab's weights."""

import math

import torch
import torch.nn.functional as F
from torch import nn

EPSILON = 1e-3
_MAX_LENGTH = 255
_STAGES = (('axial', 512, 1), ('axial', 256, 5), ('bottleneck', 128, 1), ('bottleneck', 64, 1))


class ConvNorm(nn.Module):
    """Convolution over maps or, with `is_sequence`, over queries; BatchNorm; GELU or nothing."""

    def __init__(self, inputs, outputs, kernel=1, groups=1, *, bias=False, norm=True,
                 is_active=True, is_sequence=False):  # fmt: skip
        super().__init__()
        make, make_norm = (
            (nn.Conv1d, nn.BatchNorm1d) if is_sequence else (nn.Conv2d, nn.BatchNorm2d)
        )
        self.conv = make(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=bias)
        if norm:
            self.norm = make_norm(outputs, EPSILON, 0.01)
        self.is_active = is_active

    def forward(self, x):
        x = self.conv(x)
        if hasattr(self, 'norm'):
            x = self.norm(x)
        return F.gelu(x) if self.is_active else x


class Backbone(nn.Module):
    """detectron2's ResNet-50, whose BatchNorms are submodules of the convolutions."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv1 = _conv_with_norm(3, 64, 7, 2)
        inputs = 64
        for stage, (width, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), 2):
            units = []
            for i in range(count):
                units.append(Unit(inputs, width, 2 if stage > 2 and i == 0 else 1))
                inputs = 4 * width
            self.add_module(f'res{stage}', nn.Sequential(*units))

    def forward(self, x):
        x = F.max_pool2d(F.relu(_apply(self.stem.conv1, x)), 3, 2, 1)
        features = []
        for stage in range(2, 6):
            x = getattr(self, f'res{stage}')(x)
            features.append(x)
        return features


class Unit(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = _conv_with_norm(inputs, width)
        self.conv2 = _conv_with_norm(width, width, 3, stride)
        self.conv3 = _conv_with_norm(width, 4 * width)
        if inputs != 4 * width:
            self.shortcut = _conv_with_norm(inputs, 4 * width, 1, stride)

    def forward(self, x):
        y = F.relu(_apply(self.conv1, x))
        y = _apply(self.conv3, F.relu(_apply(self.conv2, y)))
        return F.relu(y + (_apply(self.shortcut, x) if hasattr(self, 'shortcut') else x))


def _conv_with_norm(inputs, outputs, kernel=1, stride=1):
    layer = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    layer.norm = nn.BatchNorm2d(outputs, EPSILON, 0.01)
    return layer


def _apply(layer, x):
    return layer.norm(layer(x))


class Positions(nn.Module):
    """Embeddings of the distance of two places, [L, L, d]."""

    def __init__(self, channels):
        super().__init__()
        self._embeddings = nn.Embedding(2 * _MAX_LENGTH - 1, channels)

    def forward(self, length):
        places = torch.arange(length)
        distance = places[None] - places[:, None] + _MAX_LENGTH - 1
        return self._embeddings(distance.clamp(0, 2 * _MAX_LENGTH - 2))


class AxisAttention(nn.Module):
    """Attention along the last axis of [B, C, L]."""

    def __init__(self, inputs, keys, values, heads=8):
        super().__init__()
        self.split, self.heads = (keys, keys, values), heads
        self.qkv_transform = ConvNorm(
            inputs, 2 * keys + values, norm=False, is_active=False, is_sequence=True
        )
        self._query_rpe, self._key_rpe = Positions(keys // heads), Positions(keys // heads)
        self._value_rpe = Positions(values // heads)
        self._batch_norm_qkv = nn.BatchNorm1d(2 * keys + values, EPSILON, 0.01)
        self._batch_norm_similarity = nn.BatchNorm2d(3 * heads, EPSILON, 0.01)
        self._batch_norm_retrieved_output = nn.BatchNorm1d(2 * values, EPSILON, 0.01)

    def forward(self, x):
        batch, _, length = x.shape
        parts = self._batch_norm_qkv(self.qkv_transform(x)).split(self.split, 1)
        q, k, v = (part.reshape(batch, self.heads, -1, length) for part in parts)
        logits = torch.cat(
            [
                torch.einsum('bhdl,bhdm->bhlm', q, k),
                torch.einsum('bhdl,lmd->bhlm', q, self._query_rpe(length)),
                torch.einsum('bhdm,lmd->bhlm', k, self._key_rpe(length)),
            ],
            1,
        )
        logits = self._batch_norm_similarity(logits)
        weights = logits.reshape(batch, 3, self.heads, length, length).sum(1).softmax(-1)
        content = torch.einsum('bhlm,bhdm->bhdl', weights, v)
        position = torch.einsum('bhlm,lmd->bhdl', weights, self._value_rpe(length))
        retrieved = torch.cat([x.reshape(batch, -1, length) for x in (content, position)], 1)
        retrieved = self._batch_norm_retrieved_output(retrieved)
        return retrieved.reshape(batch, 2, -1, length).sum(1)


class AxialAttention(nn.Module):
    def __init__(self, inputs, keys, values):
        super().__init__()
        self._height_axis = AxisAttention(inputs, keys, values)
        self._width_axis = AxisAttention(values, keys, values)

    def forward(self, x):
        batch, _, height, width = x.shape
        x = self._height_axis(x.permute(0, 3, 1, 2).reshape(batch * width, -1, height))
        x = x.reshape(batch, width, -1, height).permute(0, 3, 2, 1)
        x = self._width_axis(x.reshape(batch * height, -1, width))
        return x.reshape(batch, height, -1, width).permute(0, 2, 1, 3)


class Block(nn.Module):
    def __init__(self, kind, inputs, width):
        super().__init__()
        self.kind = kind
        if inputs != 4 * width:
            self._shortcut = ConvNorm(inputs, 4 * width, is_active=False)
        if kind == 'axial':
            self._conv1_bn_act = ConvNorm(inputs, 2 * width)
            self._attention = AxialAttention(2 * width, width, 2 * width)
        else:
            self._conv1_bn_act = ConvNorm(inputs, width)
            self._conv2_bn_act = ConvNorm(width, width, 3)
        inner = 2 * width if kind == 'axial' else width
        self._conv3_bn = ConvNorm(inner, 4 * width, is_active=False)

    def forward(self, x):
        x = F.gelu(x)
        shortcut = self._shortcut(x) if hasattr(self, '_shortcut') else x
        x = self._conv1_bn_act(x)
        x = F.gelu(self._attention(x)) if self.kind == 'axial' else self._conv2_bn_act(x)
        return self._conv3_bn(x) + shortcut


class LayerNorm(nn.Module):
    """LayerNorm over the channels of [B, C, H, W]."""

    def __init__(self, channels):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return x.permute(0, 3, 1, 2)


class Fusion(nn.Module):
    def __init__(self, coarse, fine, outputs):
        super().__init__()
        self._conv_bn_low = ConvNorm(coarse, outputs, is_active=False)
        self._conv_bn_high = ConvNorm(fine, outputs, is_active=False)

    def forward(self, coarse, fine):
        fine = self._conv_bn_high(F.gelu(fine))
        return fine + _resize(self._conv_bn_low(F.gelu(coarse)), fine.shape[2:], coarse.shape[3])


def _resize(x, size, deciding):
    return F.interpolate(x, size, mode='bilinear', align_corners=deciding % 2 == 1)


class PixelDecoder(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self._in_norms = nn.ModuleList(LayerNorm(n) for n in channels)
        inputs = [channels[0], *(width for _, width, _ in _STAGES[1:])]
        self._stages = nn.ModuleList()
        for (kind, width, count), first in zip(_STAGES, inputs, strict=True):
            stage = nn.Module()
            blocks = [Block(kind, 4 * width if i else first, width) for i in range(count)]
            stage._blocks = nn.Sequential(*blocks)
            self._stages.append(stage)
        self._resized_fuses = nn.ModuleList(
            Fusion(4 * _STAGES[i][1], channels[i + 1], _STAGES[i + 1][1]) for i in range(3)
        )

    def forward(self, features):
        x, outputs = self._in_norms[0](features[0]), []
        for i, stage in enumerate(self._stages):
            if i:
                x = self._resized_fuses[i - 1](x, self._in_norms[i](features[i]))
            x = stage._blocks(x)
            outputs.append(x)
        return outputs


class Predictor(nn.Module):
    def __init__(self, inputs, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self._pixel_space_head_conv0bnact = ConvNorm(inputs, inputs, 5, inputs)
        self._pixel_space_head_conv1bnact = ConvNorm(inputs, 256)
        self._pixel_space_head_last_convbn = ConvNorm(256, 128, bias=True, is_active=False)
        self._transformer_mask_head = ConvNorm(256, 128, is_active=False, is_sequence=True)
        self._transformer_class_head = ConvNorm(
            256, num_classes + 1, bias=True, norm=False, is_active=False, is_sequence=True
        )
        self._pixel_space_mask_batch_norm = nn.BatchNorm2d(1, EPSILON, 0.01)

    def forward(self, pixels, mask_embedding, class_embedding):
        x = self._pixel_space_head_conv1bnact(self._pixel_space_head_conv0bnact(pixels))
        feature = F.normalize(self._pixel_space_head_last_convbn(x), dim=1)
        kernel = self._transformer_mask_head(mask_embedding)
        masks = torch.einsum('bchw,bcn->bnhw', feature, kernel)
        batch, num, height, width = masks.shape
        masks = self._pixel_space_mask_batch_norm(masks.reshape(batch, 1, num * height, width))
        classes = self._transformer_class_head(class_embedding).transpose(1, 2)
        bias = classes.new_zeros(self.num_classes + 1)
        bias[-1] = math.log(9 * self.num_classes)
        return {
            'mask_logits': masks.reshape(batch, num, height, width),
            'class_logits': classes + bias,
            'pixel_feature': feature,
        }


class SelfAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self._batch_norm_similarity = nn.BatchNorm2d(8, EPSILON, 0.01)
        self._batch_norm_retrieved_value = nn.BatchNorm1d(256, EPSILON, 0.01)

    def forward(self, parts):
        batch, _, num = parts.shape
        q, k, v = (x.reshape(batch, 8, -1, num) for x in parts.split((128, 128, 256), 1))
        logits = self._batch_norm_similarity(torch.einsum('bhdl,bhdm->bhlm', q, k))
        retrieved = torch.einsum('bhlm,bhdm->bhdl', logits.softmax(-1), v)
        return F.gelu(self._batch_norm_retrieved_value(retrieved.reshape(batch, -1, num)))


class Layer(nn.Module):
    def __init__(self, inputs, num_classes):
        super().__init__()
        queries = {'is_sequence': True}
        self._query_conv1_bn_act = ConvNorm(256, 256, **queries)
        self._pixel_conv1_bn_act = ConvNorm(inputs, 256)
        self._query_qkv_conv_bn = ConvNorm(256, 512, is_active=False, **queries)
        self._pixel_v_conv_bn = ConvNorm(256, 256, is_active=False)
        self._query_self_attention = SelfAttention()
        self._query_conv3_bn = ConvNorm(256, 256, is_active=False, **queries)
        self._query_ffn_conv1_bn_act = ConvNorm(256, 2048, **queries)
        self._query_ffn_conv2_bn = ConvNorm(2048, 256, is_active=False, **queries)
        self._predcitor = Predictor(256, num_classes)
        self._kmeans_query_batch_norm_retrieved_value = nn.BatchNorm1d(256, EPSILON, 0.01)
        self._kmeans_query_conv3_bn = ConvNorm(256, 256, is_active=False, **queries)

    def forward(self, pixels, queries):
        x = self._pixel_conv1_bn_act(F.gelu(pixels))
        query = self._query_conv1_bn_act(queries)
        values = self._pixel_v_conv_bn(x)
        prediction = self._predcitor(x, query, query)
        with torch.no_grad():
            masks = prediction['mask_logits'].flatten(2)
            assignment = F.one_hot(masks.argmax(1), masks.shape[1]).to(values.dtype)
        update = torch.einsum('bpn,bdp->bdn', assignment, values.flatten(2))
        update = self._kmeans_query_batch_norm_retrieved_value(update)
        queries = queries + self._kmeans_query_conv3_bn(update)
        retrieved = self._query_self_attention(self._query_qkv_conv_bn(query))
        queries = F.gelu(queries + self._query_conv3_bn(retrieved))
        hidden = self._query_ffn_conv2_bn(self._query_ffn_conv1_bn_act(queries))
        return F.gelu(queries + hidden), prediction


class ASPP(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        for i, rate in enumerate((1, 6, 12, 18)):
            branch = ConvNorm(inputs, 256, 3 if i else 1)
            if i:
                branch.conv.dilation = branch.conv.padding = (rate, rate)
            self.add_module(f'_aspp_conv{i}', branch)
        self._aspp_pool = ConvNorm(inputs, 256)
        self._proj_conv_bn_act = ConvNorm(5 * 256, 256)

    def forward(self, x):
        branches = [getattr(self, f'_aspp_conv{i}')(x) for i in range(4)]
        pooled = self._aspp_pool(x.mean((2, 3), keepdim=True))
        return self._proj_conv_bn_act(torch.cat([*branches, pooled.expand_as(branches[0])], 1))


class SemanticBranch(nn.Module):
    def __init__(self, channels, num_classes):
        super().__init__()
        self._aspp = ASPP(channels[0])
        for stride, inputs, width in ((8, channels[2], 64), (4, channels[3], 32)):
            self.add_module(f'_low_level_projection_os{stride}', ConvNorm(inputs, width))
            name, inner = f'_low_level_fusion_os{stride}', 256 + width
            self.add_module(f'{name}_conv0_bn_act', ConvNorm(inner, inner, 5, inner))
            self.add_module(f'{name}_conv1_bn_act', ConvNorm(inner, 256))
        self.conv_block_0 = ConvNorm(256, 256, 5, 256)
        self.conv_block_1 = ConvNorm(256, 256)
        self.final_conv = ConvNorm(256, num_classes + 1, bias=True, norm=False, is_active=False)

    def forward(self, features):
        x, deciding = self._aspp(features[0]), features[0].shape[3]
        for stride, low in ((8, features[2]), (4, features[3])):
            low = getattr(self, f'_low_level_projection_os{stride}')(low)
            x = torch.cat([_resize(x, low.shape[2:], deciding), low], 1)
            for i in range(2):
                x = getattr(self, f'_low_level_fusion_os{stride}_conv{i}_bn_act')(x)
        return self.final_conv(self.conv_block_1(self.conv_block_0(x)))


class Decoder(nn.Module):
    def __init__(self, channels, num_classes):
        super().__init__()
        self._cluster_centers = nn.Embedding(256, 128)
        self._class_embedding_projection = ConvNorm(256, 256, is_sequence=True)
        self._mask_embedding_projection = ConvNorm(256, 256, is_sequence=True)
        widths = [4 * _STAGES[i // 2][1] for i in range(6)]
        self._kmax_transformer_layers = nn.ModuleList(Layer(n, num_classes) for n in widths)
        self._predcitor = Predictor(4 * _STAGES[-1][1], num_classes)
        self._auxiliary_semantic_predictor = SemanticBranch(channels, num_classes)


class KMaXDeepLab(nn.Module):
    """The network; in training with the predictions of its layers and the semantic branch."""

    def __init__(self, num_classes=133):
        super().__init__()
        channels = (2048, 1024, 512, 256)
        self.backbone = Backbone()
        self.sem_seg_head = nn.Module()
        self.sem_seg_head.pixel_decoder = PixelDecoder(channels)
        self.sem_seg_head.predictor = Decoder(channels, num_classes)

    def forward(self, image):
        features = self.backbone(image)[::-1]
        maps = self.sem_seg_head.pixel_decoder(features)
        decoder = self.sem_seg_head.predictor
        queries = decoder._cluster_centers.weight[None].expand(len(image), -1, -1)
        auxiliary = []
        for i, layer in enumerate(decoder._kmax_transformer_layers):
            queries, prediction = layer(maps[i // 2], queries)
            auxiliary.append(prediction)
        outputs = decoder._predcitor(
            maps[-1],
            decoder._mask_embedding_projection(queries),
            decoder._class_embedding_projection(queries),
        )
        if not self.training:
            return outputs
        size = outputs['mask_logits'].shape[2:]
        for prediction in auxiliary:
            for key in ('mask_logits', 'pixel_feature'):
                prediction[key] = _resize(prediction[key], size, size[0])
        semantic = decoder._auxiliary_semantic_predictor(features)
        return {**outputs, 'auxiliary': auxiliary, 'semantic': semantic}
