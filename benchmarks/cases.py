"""The cases of every suite, as data."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.inputs import TOP_K

SUITES = ('ops', 'model', 'postprocess', 'input', 'train', 'metrics', 'export', 'kmax')

_R50 = 'bowenc0221/resnet50_os32'
_R50_OS16 = 'bowenc0221/resnet50_os16'
_MOBILENET = 'deeplab2/mobilenet_v3_large_os32'
_XCEPTION = 'paper/xception71'
_NETWORKS = {
    'r50': _R50,
    'r50_os16': _R50_OS16,
    'mobilenet_v3_large': _MOBILENET,
    'xception71': _XCEPTION,
}
_CPU_MODES = ('torch:eager', 'torch:compile', 'torch:eager_bf16')
_EXPORT_MODES = (
    'torch:eager',
    'torch:eager_bf16',
    'onnxruntime:float32',
    'onnxruntime:int8',
    'openvino:float32',
    'openvino:bfloat16',
    'openvino:int8',
)
_GPU_MODES = ('torch:eager_bf16', 'torch:compile_bf16')


@dataclasses.dataclass(frozen=True)
class Case:
    """A measurement.

    Attributes:
      suite: one of `SUITES`.
      name: name, unique in its suite.
      arguments: arguments of both sides' `prepare`; 'inputs' names the inputs to draw.
      rivals: programs to compare ours with, 'FRAMEWORK:MODE' each. FRAMEWORK is torch, tensorflow,
        numpy (no framework), onnxruntime, openvino or ours (another mode of our own program).
      targets: smallest desired ratio rival / ours, by rival.
      num_cores: cores per side; None for all.
      agreement: kind of the comparison of results, a key of `agreement.LIMITS`; None for none.
      is_quick: is measured with --quick.
    """

    suite: str
    name: str
    arguments: Mapping[str, Any]
    rivals: tuple[str, ...]
    targets: Mapping[str, float] = dataclasses.field(default_factory=dict)
    num_cores: int | None = None
    agreement: str | None = None
    is_quick: bool = True


def list_cases(suite: str, device: str, pattern: str = '') -> list[Case]:
    """Lists the cases of a suite on 'cpu' or 'gpu' whose names match a regular expression."""
    return [case for case in _SUITES[suite](device) if re.search(pattern, case.name)]


def _format_size(size):
    return f'{size[0]}x{size[1]}'


def _make_targets(rivals, target):
    """Sets a target for all rivals on a GPU, and for eager float32 PyTorch on a CPU."""
    return (
        {}
        if target is None
        else {rival: target for rival in rivals if rivals == _GPU_MODES or rival == 'torch:eager'}
    )


def _list_postprocess(device) -> Iterator[Case]:
    least = {
        ((1025, 2049), 10): 60,
        ((1025, 2049), 50): 200,
        ((1025, 2049), 200): 500,
        ((641, 641), 10): 60,
        ((641, 641), 50): 200,
        ((641, 641), 200): 300,
    }
    for size, num_classes in (((1025, 2049), 19), ((641, 641), 133)):
        for num_centers in (10, 50, 200):
            for source in ('logits', 'labels'):
                target = least[size, num_centers] if device == 'cpu' else None
                targets = (
                    dict.fromkeys(('torch:bowenc0221', 'torch:detectron2'), target)
                    if target
                    else {}
                )
                rivals = ('torch:bowenc0221', 'torch:detectron2')
                if device == 'cpu' and num_centers < TOP_K:
                    # At exactly TOP_K centres it keeps one more than the others.
                    rivals += ('tensorflow:deeplab2',)
                    targets['tensorflow:deeplab2'] = 20 if num_centers == 50 else None
                yield Case(
                    'postprocess',
                    f'{_format_size(size)}/{num_classes}_classes/{num_centers}_centers/from_{source}',
                    {
                        'size': size,
                        'batch': 1,
                        'num_classes': num_classes,
                        'num_centers': num_centers,
                        'inputs': ('scene',),
                        'is_from_labels': source == 'labels',
                    },
                    rivals,
                    targets,
                    agreement='panoptic',
                    is_quick=source == 'labels',
                )


def _make_model_case(network, size, batch, num_classes, rivals, *, num_centers=0, target=None):
    end = f'/post_processed_{num_centers}_centers' if num_centers else ''
    arguments = {
        'preset': _NETWORKS[network],
        'size': size,
        'batch': batch,
        'num_classes': num_classes,
        'num_centers': num_centers,
        'inputs': ('image', 'stride4_scene') if num_centers else ('image',),
    }
    name = f'{network}/{_format_size(size)}/batch_{batch}{end}'
    agreement = 'panoptic_of_network' if num_centers else 'maps'
    return Case(
        'model', name, arguments, rivals, _make_targets(rivals, target), agreement=agreement
    )


def _list_model(device) -> Iterator[Case]:
    if device == 'gpu':
        for network in ('r50', 'mobilenet_v3_large', 'xception71'):
            for size, num_classes in (((1025, 2049), 19), ((641, 641), 133)):
                for batch in (1, 16):
                    for num_centers in (0, 50):
                        yield _make_model_case(
                            network,
                            size,
                            batch,
                            num_classes,
                            _GPU_MODES,
                            num_centers=num_centers,
                            target=1.2,
                        )
        return
    for network, size, target in (
        ('r50', (513, 513), 1.0),
        ('r50', (641, 641), 1.0),
        ('r50', (1025, 2049), 1.3),
        ('r50_os16', (513, 513), 1.0),
        ('r50_os16', (1025, 2049), 1.3),
        ('mobilenet_v3_large', (513, 513), 1.4),
        ('mobilenet_v3_large', (1025, 2049), 2.0),
        ('xception71', (513, 513), 1.2),
    ):
        case = _make_model_case(network, size, 1, 19, _CPU_MODES, target=target)
        yield dataclasses.replace(case, is_quick=network != 'r50_os16')
    yield _make_model_case('r50', (1025, 2049), 1, 19, ('torch:eager',), num_centers=50, target=3.0)
    yield _make_model_case(
        'mobilenet_v3_large', (513, 513), 1, 19, ('torch:eager',), num_centers=50
    )


def _make_train_case(network, size, batch, num_classes, rivals, target=None):
    arguments = {
        'preset': _NETWORKS[network],
        'size': size,
        'batch': batch,
        'num_classes': num_classes,
        'inputs': ('image', 'targets'),
    }
    name = f'{network}/{_format_size(size)}/batch_{batch}'
    return Case('train', name, arguments, rivals, _make_targets(rivals, target), agreement='loss')


def _list_train(device) -> Iterator[Case]:
    if device == 'gpu':
        for network in ('r50', 'mobilenet_v3_large', 'xception71'):
            for size, num_classes in (((1025, 2049), 19), ((641, 641), 133)):
                for batch in (1, 16):
                    yield _make_train_case(network, size, batch, num_classes, _GPU_MODES, 1.2)
        return
    for network, target in (('r50', 1.1), ('r50_os16', None), ('mobilenet_v3_large', 1.3)):
        case = _make_train_case(network, (257, 257), 2, 19, _CPU_MODES, target)
        yield dataclasses.replace(case, is_quick=network != 'r50_os16')


def _make_operation_cases(device, name, operation, size, channels=1, **rest) -> Iterator[Case]:
    arguments = {
        'operation': operation,
        'size': size,
        'channels': channels,
        'features': channels,
        'stride': 1,
        'dilation': 1,
        'inputs': ('operands',),
        **rest,
    }
    rivals = ('torch:eager_bf16',) if device == 'gpu' else ('torch:eager',)
    for direction in ('forward', 'forward_and_backward'):
        has_gradient = direction != 'forward'
        yield Case(
            'ops',
            f'{name}/{direction}',
            {**arguments, 'has_gradient': has_gradient},
            rivals,
            agreement='maps',
            is_quick=has_gradient,
        )


def _list_ops(device) -> Iterator[Case]:
    def convolution(name, kernel, size, channels, features, **rest):
        return _make_operation_cases(
            device, name, 'conv', size, channels, kernel=kernel, features=features, **rest
        )

    def depthwise(name, kernel, size, channels, **rest):
        return _make_operation_cases(
            device, name, 'depthwise', size, channels, kernel=kernel, **rest
        )

    yield from depthwise('depthwise3x3/129x257/256', 3, (129, 257), 256)
    yield from depthwise('depthwise5x5/129x257/256', 5, (129, 257), 256)
    yield from depthwise('depthwise3x3_stride_2/129x257/256', 3, (129, 257), 256, stride=2)
    yield from depthwise('depthwise3x3_dilation_2/65x65/728', 3, (65, 65), 728, dilation=2)
    yield from convolution('conv1x1/65x65/1024_to_256', 1, (65, 65), 1024, 256)
    yield from convolution('conv1x1/129x257/256', 1, (129, 257), 256, 256)
    yield from convolution('conv3x3/65x65/256', 3, (65, 65), 256, 256)
    yield from convolution('conv3x3_dilation_6/65x65/256', 3, (65, 65), 256, 256, dilation=6)
    yield from convolution(
        'conv3x3_dilation_12/33x33/2048_to_256', 3, (33, 33), 2048, 256, dilation=12
    )
    yield from convolution('conv3x3_stride_2/129x129/128', 3, (129, 129), 128, 128, stride=2)
    yield from convolution('stem7x7/513x513', 7, (513, 513), 3, 64, stride=2)
    yield from _make_operation_cases(
        device, 'max_pool3x3/257x257/64', 'max_pool', (257, 257), 64, stride=2
    )
    for size, channels, factor in (((129, 257), 19, 4), ((65, 129), 256, 4), ((65, 129), 256, 2)):
        name = f'resize_x{factor}/{_format_size(size)}/{channels}'
        yield from _make_operation_cases(device, name, 'resize', size, channels, factor=factor)
    for size in ((513, 1025), (1025, 2049)):
        yield from _make_operation_cases(
            device, f'hardest_pixels/{_format_size(size)}', 'hardest_pixels', size
        )


def _list_input(device) -> Iterator[Case]:
    def make_case(
        name,
        until,
        rivals,
        *,
        batch=4,
        num_images=32,
        num_workers=0,
        num_cores=None,
        target=None,
        **rest,
    ):
        arguments = {
            'crop_size': (641, 641),
            'resize_px': 641,
            'batch': batch,
            'num_images': num_images,
            'num_workers': num_workers,
            'until': until,
            'inputs': ('photographs',),
            **rest,
        }
        targets = {rivals[0]: target} if target else {}
        return Case('input', name, arguments, rivals, targets, num_cores)

    if device == 'cpu':
        peers = ('numpy:bowenc0221', 'numpy:deeplab2')
        # Our host only decodes: augmentation and targets run on the device.
        yield make_case('host', 'host', peers, num_cores=1, target=4.0)
        # Includes the work of the device, all on one core.
        yield make_case('samples', 'samples', peers, num_cores=1)
        for num_workers in (1, 8, 16):
            name = f'host/{num_workers}_workers'
            is_quick = num_workers == 1
            case = make_case(
                name, 'host', ('torch:bowenc0221',), num_images=64, num_workers=num_workers
            )
            yield dataclasses.replace(case, is_quick=is_quick)
    network = {'preset': _MOBILENET, 'batch': 2, 'crop_size': (257, 257), 'num_images': 16}
    if device == 'gpu':
        network = {'preset': _R50, 'batch': 16, 'num_images': 256}
    for num_workers in (1, 8, 16):
        case = make_case(
            f'train_loop/{num_workers}_workers',
            'step',
            ('ours:step_alone',),
            num_workers=num_workers,
            **network,
        )
        yield dataclasses.replace(case, is_quick=num_workers == 1)


def _list_metrics(device) -> Iterator[Case]:
    for size, num_classes in (((1025, 2049), 19), ((641, 641), 133)):
        arguments = {
            'preset': _R50,
            'size': size,
            'num_classes': num_classes,
            'num_centers': 50,
            'inputs': ('label_maps',),
        }
        name = f'device_pq/{_format_size(size)}/{num_classes}_classes'
        # The target of 20 bounds the metric to 5 % of the time of inference.
        yield Case(
            'metrics',
            name,
            arguments,
            ('numpy:panopticapi', 'ours:inference'),
            {'ours:inference': 20.0},
            agreement='quality',
            is_quick=num_classes == 133,
        )
    if device == 'cpu':
        arguments = {
            'size': (480, 640),
            'num_classes': 133,
            'num_centers': 12,
            'num_images': 32,
            'inputs': ('panoptic_files',),
        }
        yield Case(
            'metrics',
            'files_pq/480x640/133_classes',
            arguments,
            ('numpy:panopticapi',),
            num_cores=1,
            agreement='quality',
        )


def _list_export(device) -> Iterator[Case]:
    if device == 'gpu':
        return
    for network in ('r50', 'mobilenet_v3_large'):
        for size in ((513, 513), (1025, 2049)):
            case = _make_model_case(network, size, 1, 19, _EXPORT_MODES, num_centers=50)
            name = f'{network}/{_format_size(size)}'
            yield dataclasses.replace(case, suite='export', name=name, targets={})


def _list_kmax(device) -> Iterator[Case]:
    """kMaX-DeepLab with ResNet-50: inference, and a train step on two images."""
    if device == 'gpu':
        return
    shared = {'preset': 'kmax_pytorch/resnet50_coco', 'num_classes': 133, 'num_centers': 20}
    for size in ((641, 641), (1281, 1281)):
        yield Case(
            'kmax',
            f'r50/{_format_size(size)}/batch_1',
            {**shared, 'size': size, 'batch': 1, 'inputs': ('image',)},
            ('torch:eager',),
            _make_targets(('torch:eager',), 1.2) if size == (641, 641) else {},
            agreement='maps',
            is_quick=size == (641, 641),
        )
    size = (257, 257)
    yield Case(
        'kmax',
        f'r50/{_format_size(size)}/batch_2/train',
        {**shared, 'size': size, 'batch': 2, 'inputs': ('image', 'label_maps')},
        ('torch:eager',),
        _make_targets(('torch:eager',), 1.1),
        agreement='loss',
    )


_SUITES = {
    'kmax': _list_kmax,
    'ops': _list_ops,
    'model': _list_model,
    'postprocess': _list_postprocess,
    'input': _list_input,
    'train': _list_train,
    'metrics': _list_metrics,
    'export': _list_export,
}
