"""Lists of classes in the files of tools, and specs of objects."""

import json

import pytest
from etils import epath

from pdl_jax.data import class_lists
from pdl_jax.data.class_lists import make_object_spec, read_class_list


@pytest.fixture
def write(tmp_path):
    def write_list(name, content):
        path = epath.Path(tmp_path) / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_list


def read(path):
    """Returns (id, name, colour) of each class, and whether it is a table of colours."""
    classes, is_table = read_class_list(path)
    return [(c['id'], c['name'], c.get('color')) for c in classes], is_table


SOIL_AND_CROP = [(0, 'soil', [1, 2, 3]), (1, 'crop', [255, 0, 16])]


@pytest.mark.parametrize(
    'name, content',
    [
        ('a.csv', 'soil,1,2,3\ncrop, 255, 0, 16\n'),
        ('a.csv', 'r,g,b,name\n1,2,3,soil\n255,0,16,crop\n'),
        ('labelmap.txt', '# label:color_rgb:parts:actions\nsoil:1,2,3::\ncrop:255,0,16::\n'),
        (
            'meta.json',
            {
                'classes': [
                    {'title': 'soil', 'color': '#010203'},
                    {'title': 'crop', 'color': '#FF0010'},
                ]
            },
        ),
        ('a.json', [{'name': 'soil', 'color': '#010203'}, {'name': 'crop', 'color': [255, 0, 16]}]),
    ],
)
def test_tables_of_colors(write, name, content):
    assert read(write(name, content)) == (SOIL_AND_CROP, True)


@pytest.mark.parametrize(
    'name, content',
    [
        ('a.txt', 'soil\ncrop\n'),
        ('a.txt', '\ufeffsoil\r\ncrop\r\n\r\n'),
        ('labels.txt', '__ignore__\nsoil\ncrop'),
        ('a.json', ['soil', 'crop']),
        ('a.json', {'0': 'soil', '1': 'crop'}),
        ('data.yaml', 'path: x\nnames: [soil, crop]\nnc: 2\n'),
        ('data.yml', 'names:\n  0: soil\n  1: crop\n'),
        ('_classes.csv', 'Pixel Value, Class\n0, soil\n1, crop\n'),
        ('a.json', [{'id': 0, 'name': 'soil'}, {'id': 1, 'name': 'crop'}]),
    ],
)
def test_lists_of_names(write, name, content):
    assert read(write(name, content)) == ([(0, 'soil', None), (1, 'crop', None)], False)


def test_ids_of_mappings_are_sorted_by_value(write):
    content = {str(i): f'c{i}' for i in (10, 2, 1)}
    assert [i for i, _, _ in read(write('a.json', content))[0]] == [1, 2, 10]
    with_colors = [{'id': 7, 'name': 'soil', 'color': '#010203'}]
    assert read(write('a.json', with_colors)) == ([(7, 'soil', [1, 2, 3])], False)


@pytest.mark.parametrize(
    'name, content, message',
    [
        ('a.json', {'labels': []}, r'a\.json must be a list of classes, got an object'),
        ('a.json', 7, 'must be a list of classes, got 7'),
        ('a.json', [{'id': 0, 'name': 'soil', 'color': 'red'}], "color 'red' must be #rrggbb"),
        (
            'meta.json',
            {'classes': [{'name': 'soil'}]},
            r'classes\[0\] of meta.json lacks .*"title"',
        ),
        ('a.csv', 'soil,1,2\n', r"a\.csv: line 'soil,1,2' must be name,r,g,b"),
        ('a.csv', 'soil,1,2,x\n', 'must be name,r,g,b'),
        (
            'labelmap.txt',
            'soil:1,2,3::\ncrop\n',
            r"labelmap\.txt: line 'crop' must be name:r,g,b::",
        ),
        ('data.yaml', 'names: 7', r'names of data\.yaml must be a list of names, got 7'),
        ('data.yaml', '- soil', r'data\.yaml must hold fields such as "names:"'),
        ('data.yaml', 'names: [soil', r'data\.yaml is not valid YAML'),
        ('data.yaml', '[' * 5000, r'data\.yaml is not valid YAML'),
        ('data.yaml', 'names: !!python/object/apply:os.system [ls]', 'is not valid YAML'),
        ('data.yaml', 'names: ' + '9' * 5000, 'data.yaml'),
        ('data.yaml', '#' * 2**21, 'too many for a list of classes'),
    ],
)
def test_malformed_lists(write, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(write(name, content))


def test_yaml_that_expands_stays_small(write):
    lines = ['a0: &a0 [x, x]'] + [f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]' for i in range(1, 60)]
    text = '\n'.join([*lines, 'names: [soil]'])
    assert read(write('data.yaml', text)) == ([(0, 'soil', None)], False)


def test_large_ids_are_no_numbers(write):
    digits = '9' * 5000
    with pytest.raises(ValueError, match=r'a\.json must be a list of classes'):
        read(write('a.json', {digits: 'soil'}))
    with pytest.raises(ValueError, match='must be name,r,g,b'):
        read(write('a.csv', f'soil,{digits},2,3'))


CELLS = [{'id': 1, 'name': 'cell'}, {'id': 5, 'name': 'dirt', 'isthing': 0}]


def test_background_becomes_the_last_class():
    spec, base = make_object_spec(CELLS, source='a.json')
    assert spec.class_names == ('cell', 'dirt', 'background')
    assert [c.id for c in spec.categories] == [1, 5, 6]
    assert spec.label_format.thing_classes == (0,) and base == 2000
    assert make_object_spec(CELLS, source='a', background='soil').spec.class_names[2] == 'soil'


@pytest.mark.parametrize('name', ['background', '_background_'])
def test_listed_background_is_used(name):
    listed = [*CELLS, {'id': 9, 'name': name}]
    spec, base = make_object_spec(listed, source='a.json')
    assert spec.class_names == ('cell', 'dirt', name)
    assert spec.label_format.thing_classes == (0,) and base == 2000


def test_pixels_without_an_object_may_be_void():
    spec, base = make_object_spec(CELLS, source='a.json', background='void')
    assert spec.class_names == ('cell', 'dirt') and base == spec.label_format.void_label
    listed = [*CELLS, {'id': 9, 'name': 'background'}]
    spec, base = make_object_spec(listed, source='a.json', background='void')
    assert spec.label_format.thing_classes == (0,) and base == spec.label_format.void_label


def test_stuff_is_named():
    spec, _ = make_object_spec(CELLS, source='a.json', stuff=' cell , dirt')
    assert spec.label_format.thing_classes == ()
    with pytest.raises(ValueError, match="--stuff names 'cel': did you mean 'cell'.*a.json has"):
        make_object_spec(CELLS, source='a.json', stuff='cel')


def test_room_for_many_objects():
    assert make_object_spec(CELLS, source='a', num_instances=999).spec.label_divisor == 1000
    spec, base = make_object_spec(CELLS, source='a', background='dirt', num_instances=1200)
    assert spec.label_divisor == 4096 and base == 4096
    assert make_object_spec(CELLS, source='a', num_instances=65535).spec.label_divisor == 65536
    with pytest.raises(ValueError, match='65536 objects of one class.*cut the image into tiles'):
        make_object_spec(CELLS, source='a', num_instances=65536)


def test_colors_must_differ():
    colors = class_lists.get_colors([{'id': 3, 'name': 'a', 'color': [1, 2, 3]}, {'id': 4}])
    assert colors == {(1, 2, 3): 3}
    twice = [{'id': i, 'name': str(i), 'color': [1, 2, 3]} for i in range(2)]
    with pytest.raises(
        ValueError, match=r"colour \(1, 2, 3\) of class '1' is also that of .* id 0"
    ):
        class_lists.get_colors(twice)
