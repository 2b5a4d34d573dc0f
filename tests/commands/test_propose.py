"""The command that proposes 3-D boxes."""

import json

import numpy as np
import pytest
from PIL import Image

from pdl_jax.commands.command_line import main

_GRID = ('--range_m=24', '--width_m=16')


@pytest.fixture(scope='module')
def kitti(tmp_path_factory):
    """Two generated frames."""
    root = tmp_path_factory.mktemp('frames') / 'kitti'
    main(['propose', f'--kitti={root}', '--generate=2', '--generate_px=96x320'])
    return root


@pytest.mark.slow
def test_frames_are_fitted_proposed_and_evaluated(kitti, tmp_path, capsys):
    models, output = tmp_path / 'models.json', tmp_path / 'boxes'
    words = ['propose', f'--kitti={kitti}', *_GRID]
    main([*words, f'--fit={models}', '--classes', 'Car'])
    assert 'Car: ' in capsys.readouterr().out
    assert list(json.loads(models.read_text())['classes']) == ['Car']
    main([*words, f'--models={models}', f'--output={output}', '--evaluate', '--num_drawn=2'])
    assert 'Car              3-D  0.5' in capsys.readouterr().out
    names = [f'00000{i}{end}' for i in range(2) for end in ('.json', '_boxes.png', '_top.png')]
    assert sorted(p.name for p in output.iterdir()) == sorted(
        [*names, 'recall.html', 'recall.json']
    )
    content = json.loads((output / '000000.json').read_text())
    assert content['road']['is_found'] and abs(content['road']['camera_height_m'] - 1.65) < 0.05
    scores = [row['score'] for row in content['proposals']]
    assert scores and scores == sorted(scores, reverse=True)
    first = content['proposals'][0]
    assert first['class'] == 'Car' and first['box']['z'] > 0
    assert first['image_box']['y1'] > first['image_box']['y0']
    assert np.asarray(Image.open(output / '000000_boxes.png')).shape == (96, 320, 3)
    recall = json.loads((output / 'recall.json').read_text())
    assert recall['difficulty'] == 'moderate' and recall['num_proposals'][-1] == 2000


def test_a_single_frame(kitti, tmp_path):
    folder = kitti / 'training'
    main(
        [
            'propose',
            f'--calibration={folder}/calib/000001.txt',
            f'--image={folder}/image_2/000001.png',
            f'--depth={folder}/depth_2/000001.png',
            f'--output={tmp_path}',
            '--classes=Car',
            '--nopictures',
            *_GRID,
        ]
    )
    assert [path.name for path in tmp_path.iterdir()] == ['000001.json']


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ('--output=x', 'give either --kitti=DIR, or --calibration'),
        ('--kitti=x --calibration=y --output=z', 'give either --kitti=DIR, or --calibration'),
        ('--kitti=x', 'nothing is to be written'),
        ('--kitti=x --evaluate', 'nothing is to be written'),
        ('--kitti=x --lidar=y --output=z', '--lidar belongs to --calibration'),
        ('--calibration=x --lidar=y --output=z', 'one frame needs --image'),
        ('--calibration=x --image=i --lidar=y --depth=d --output=z', 'one frame needs --image'),
        ('--calibration=x --image=i --lidar=y --fit=z', 'need --kitti=DIR'),
        ('--kitti=x --fit=y --models=z', '--fit goes alone'),
        ('--kitti=missing --output=z', 'missing/training/calib does not exist'),
        ('--kitti={kitti} --output=z --classes Cars', "did you mean 'Car'?"),
        ('--kitti={kitti} --output=z --max_overlap=2', 'max_overlap (=2.0)'),
        ('--kitti={kitti} --output=z --generate_px=4', 'HEIGHTxWIDTH'),
        ('--kitti={kitti} --output=z --num_proposals=0', '0 must lie in 1 .. 100000'),
        ('--kitti={kitti} --part=testing --output=z', 'testing/calib does not exist'),
    ],
)
def test_mistakes_end_with_one_line(kitti, flags, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(['propose', *flags.format(kitti=kitti).split()])
    assert ended.value.code == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith('pdl_jax: ')]
    assert len(lines) == 1 and lines[0].startswith('error: ') and message in lines[0]
