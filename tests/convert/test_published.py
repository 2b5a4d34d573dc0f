"""The table of published checkpoints: its commands, its networks, and the copy in the docs."""

import collections
import json
import math
import re
import shlex

import pytest

from pdl_jax.commands import convert
from pdl_jax.commands.command_line import main
from pdl_jax.convert.classes import find_dataset, make_spec
from pdl_jax.convert.conversion import _list_shapes
from pdl_jax.convert.networks import Network
from pdl_jax.convert.publication import format_rows, format_unreadable
from pdl_jax.convert.published import PUBLISHED
from pdl_jax.convert.source import list_backbones
from pdl_jax.convert.sources import SOURCES
from pdl_jax.convert.unreadable import UNREADABLE
from pdl_jax.presets import make_any_network
from pdl_jax.storage import shipped
from tests import tiny
from tests.models.test_preset_networks import PARAMETERS

# Networks of the converter that nobody publishes, or not in a form that it reads.
UNPUBLISHED = {
    'bowenc0221': {'bowenc0221/resnet50_os16'},
    # R50-DC5 has no link.
    'detectron2': {'detectron2/resnet50_os16'},
    'deeplab2': {
        'deeplab2/mobilenet_v3_small_os32',
        'deeplab2/mobilenet_v3_large_os32',
        'deeplab2/resnet50_os32_semantic',
        *(f'deeplab2/axial_deeplab_{size}_os16' for size in ('s', 'm', 'l')),
        *(f'imagenet/axial_resnet_{size}' for size in ('s', 'm', 'l')),
        *(
            f'kmax_deeplab2/{backbone}_ade20k'
            for backbone in ('max_s', 'convnext_tiny', 'convnext_small', 'convnext_base')
        ),
    },
    'torchvision': set(),
    'keras': set(),
    # The program has configurations for all backbones, but files for these.
    'kmax_pytorch': {
        f'kmax_pytorch/convnext_{size}_{dataset}'
        for size in ('tiny', 'small', 'base')
        for dataset in ('cityscapes', 'ade20k')
    },
    # Its ImageNet files are on the same bucket; nobody has looked into them here.
    'model_garden': {
        *(f'imagenet/resnet{depth}_beta' for depth in (50, 101)),
        *(f'imagenet/mobilenet_v3_{size}' for size in ('small', 'large')),
    },
    'convnext': set(),
    'timm': set(),
    # What its convert.py makes of the authors' Caffe file.
    'deeplab_pytorch': {'deeplab_pytorch/deeplab_v1_resnet101_os8'},
    # Arrays that were taken out of graphs.
    'tensorflow': {'imagenet/mobilenet_v2'},
}


@pytest.fixture
def converted(monkeypatch):
    """The parsed flags of conversions, which are not made."""
    seen = []
    monkeypatch.setattr(convert, 'run', seen.append)
    return seen


@pytest.mark.parametrize('item', PUBLISHED, ids=lambda item: item.name)
def test_the_command_is_accepted_and_finds_the_classes(item, converted):
    program, *words = shlex.split(item.command)
    assert program == 'pdl_jax'
    main(words)
    (flags,) = converted
    source = SOURCES[flags.source]
    backbones = {network.name for network in list_backbones(source)}
    assert flags.preset in (source.presets if item.dataset else backbones)
    assert (flags.input, flags.output) == (item.file, f'runs/{item.name}')
    if item.dataset:
        # Without --dataset the file's name or the number of classes must tell.
        assert not flags.dataset
        assert find_dataset(item.num_classes, flags.input)[0] == item.dataset
        counts_void = make_network(item.preset).counts_void
        spec = make_spec(item.dataset, item.num_classes, counts_void=counts_void)
        classes = spec.num_classes if counts_void else len(spec.label_format.valid_classes)
        assert classes == item.num_classes


def test_names_are_unique():
    names = collections.Counter(item.name for item in PUBLISHED)
    assert set(names.values()) == {1}


def test_every_network_of_the_converter_is_listed():
    for name, source in SOURCES.items():
        known = {*source.presets, *(network.name for network in list_backbones(source))}
        listed = {item.preset for item in PUBLISHED if item.source == name}
        assert known - listed == UNPUBLISHED[name], name
    widths = [item for item in PUBLISHED if item.source == 'keras']
    assert len(widths) == len(SOURCES['keras'].backbones['mobilenet_v2'])


def test_scores_and_addresses_are_plausible():
    for item in PUBLISHED:
        assert re.fullmatch(r'https://[\w./-]+', item.page)
        assert all(25 < score < 90 for score in (item.pq, item.miou) if score is not None)
        assert item.dataset or item.pq is item.miou is None


def test_parameters_of_whole_networks_are_those_of_the_presets():
    found = {(x.preset, x.num_classes): x.parameters for x in PUBLISHED if x.dataset}
    shared = found.keys() & PARAMETERS.keys()
    assert len(shared) > 15
    assert {key: found[key] for key in shared} == {key: PARAMETERS[key] for key in shared}


@pytest.mark.slow
@pytest.mark.parametrize('source', sorted(SOURCES))
def test_other_parameters_are_counted(source):
    wanted = [
        item
        for item in PUBLISHED
        if item.source == source and (item.preset, item.num_classes) not in PARAMETERS
    ]
    variants = collections.defaultdict(list)
    for network in list_backbones(SOURCES[source]):
        variants[network.name].append(network)
    for item in wanted:
        networks = [make_network(item.preset)] if item.dataset else variants[item.preset]
        counts = [_count_parameters(network, item.num_classes) for network in networks]
        # Widths of one network have an entry each.
        assert item.parameters in counts, (item.name, counts)


def make_network(preset):
    return Network(preset, make_any_network(preset))


def _count_parameters(network, num_classes):
    shapes = _list_shapes(network, num_classes)
    return sum(math.prod(s) for path, s in shapes.items() if path.startswith('params/'))


def test_the_docs_have_the_same_tables():
    text = (tiny.ROOT / 'docs' / 'weights.md').read_text()
    rows = [line for line in text.splitlines() if line.startswith('| `') and '](https' in line]
    assert rows == format_rows(PUBLISHED) + format_unreadable(UNREADABLE)
    kinds = {item.evidence for item in PUBLISHED}
    assert kinds == set(re.findall(r'^- \*(\w+)\*: ', text, re.MULTILINE))


def test_the_list(capsys):
    main(['weights'])
    printed = capsys.readouterr().out
    for item in PUBLISHED:
        assert f' {item.name} ' in printed and item.command in printed and item.page in printed
    assert 'networks that come with the package' not in printed or shipped.list_shipped()
    main(['weights', '--json'])
    values = json.loads(capsys.readouterr().out)
    assert [entry['command'] for entry in values['published']] == [x.command for x in PUBLISHED]
    assert [entry['name'] for entry in values['shipped']] == shipped.list_shipped()


def test_an_entry(capsys):
    for name in ('model_final_bd324a', 'model_final_bd324a.pkl'):
        main(['weights', name])
        lines = dict(line.split('  ', 1) for line in capsys.readouterr().out.splitlines())
        lines = {key.strip(): value.strip() for key, value in lines.items()}
        assert (lines['PQ'], lines['mIoU']) == ('60.3', '78.2')
        assert lines['network'] == 'detectron2/resnet52_os16' and 'note' not in lines
        assert lines['loads by'] == 'program'
        assert lines['convert with'].startswith('pdl_jax convert --from=detectron2 ')
    main(['weights', 'resnet50_os32_panoptic_deeplab_kitti_train', '--json'])
    entry = json.loads(capsys.readouterr().out)
    assert entry['pq'] == 48.31 and entry['note'] == "measured by DeepLab2's own metric"


def test_networks_of_the_package_come_first(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, '_FOLDER', tmp_path)
    (tmp_path / 'cells.md').write_text('# cells\n\nFinds cells.\n\nMore.\n')
    main(['weights'])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('networks that come with the package')
    assert lines[1].split() == ['cells', 'Finds', 'cells.']
    main(['weights', 'cells'])
    assert capsys.readouterr().out == '# cells\n\nFinds cells.\n\nMore.\n'
    main(['weights', '--json'])
    assert json.loads(capsys.readouterr().out)['shipped'][0]['card'].startswith('# cells')


@pytest.mark.parametrize(
    ('name', 'hint'),
    [
        ('resnet50-0676ba6', 'did you mean resnet50-0676ba61'),
        ('?', 'lists all'),
        ('resnet50_os32_motion_deeplab_kitti_train', 'is not converted: Motion-DeepLab reads two'),
    ],
)
def test_an_unknown_name_is_one_line(name, hint, capsys):
    with pytest.raises(SystemExit):
        main(['weights', name])
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and hint in error
