"""The encoders of kMaX-DeepLab's PyTorch program: ResNet-50 and ConvNeXt-T, their stems too."""

import jax
import numpy as np
import pytest

from pdl_jax.models.model_backbone import make_model_backbone
from pdl_jax.presets import make_any_network
from tests import kmax_goldens

# Ours by the original's.
_NAMES = {'stem': 'stem', 'res2': 'stride4', 'res3': 'stride8', 'res4': 'stride16'}


@pytest.mark.slow
@pytest.mark.parametrize(
    'case', ['r50_coco_64x96', 'r50_cityscapes_65x129', 'convnext_tiny_coco_65x97']
)
def test_features_are_those_of_the_original(case, shared_dir):
    golden = np.load(shared_dir / 'golden' / 'kmax' / f'forward_{case}.npz')
    name, _, size = case.rpartition('_')
    _, variables = kmax_goldens.convert(kmax_goldens.draw_weights(shared_dir, name), name)
    variables = {kind: x['backbone'] for kind, x in variables.items() if 'backbone' in x}
    module = make_model_backbone(make_any_network(kmax_goldens.find_preset(name)))
    height, width = (int(n) for n in size.split('x'))
    image = kmax_goldens.draw_image(shared_dir, 1, (height, width), int(golden['image_salt']))
    features = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, image)
    res5 = features['stride32']
    np.testing.assert_allclose(res5.transpose(0, 3, 1, 2), golden['encoder_res5'], atol=1e-4)
    for original, ours in _NAMES.items():
        if f'encoder_{original}_mean_std' in golden:
            x = np.asarray(features[ours])
            found = [x.mean(), x.std(ddof=1)]
            np.testing.assert_allclose(found, golden[f'encoder_{original}_mean_std'], atol=1e-4)
