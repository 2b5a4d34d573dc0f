"""Goldens of DeepLab2's axial networks: variables by rule, under DeepLab2's names, and features."""

import json
import re

import flax
import numpy as np

from tests.golden_rule import load_rule

# Our names by DeepLab2's, of the parts that its axial networks share.
_RENAMES = (
    (r'stem/conv(\d)_bn(_act)?/', r'stem_\1/'),
    (r'^(stage\d\w*|decoder_stage\d_extra)/block(\d)/', r'\1_block\2/'),
    (r'/conv(\d)_bn(_act)?/', r'/conv\1/'),
    (r'qkv_kernel$', 'query_key_value/kernel'),
    (r'batch_norm_qkv', 'query_key_value_norm'),
    (r'batch_norm_similarity', 'similarity_norm'),
    (r'batch_norm_retrieved_(output|value)', 'retrieved_norm'),
    (r'(query|key|value)_rpe/embeddings$', r'\1_position'),
    (r'batch_norm/', 'norm/'),
    (r'gamma$', 'scale'),
    (r'beta$', 'bias'),
    (r'moving_mean$', 'mean'),
    (r'moving_variance$', 'var'),
)


class AxialGolden:
    """One golden file.

    Attributes:
      features: arrays by name; `*_mean_std` are of whole tensors, others every 8th channel.
      num_parameters: trainable values.
      shapes: shapes of DeepLab2's variables by name.
    """

    def __init__(self, shared_dir, name: str):
        self._rule = load_rule(shared_dir)
        self._size = [int(n) for n in name.rpartition('_')[2].split('x')]
        with np.load(shared_dir / 'golden' / 'axial' / f'{name}.npz') as file:
            self.features = {key: file[key] for key in file.files}
        self.num_parameters = int(self.features.pop('num_parameters'))
        self.shapes = json.loads(str(self.features.pop('variables')))

    def make_image(self):
        """The picture as f32[1, H, W, 3]."""
        return self._rule.image('image', (1, 3, *self._size)).transpose(0, 2, 3, 1)

    def make_variables(self, shapes, renames=()):
        """Draws our variables; fails if ours are not exactly DeepLab2's.

        Args:
          shapes: of our variables.
          renames: (pattern, replacement) pairs that go before the shared ones.
        """
        drawn = {}
        for path, value in self.draw_arrays().items():
            for pattern, replacement in (*renames, *_RENAMES):
                path = re.sub(pattern, replacement, path)
            kind = 'batch_stats' if path.rpartition('/')[2] in ('mean', 'var') else 'params'
            drawn[f'{kind}/{path}'] = value
        flat = flax.traverse_util.flatten_dict(shapes, sep='/')
        assert set(drawn) == set(flat), sorted(set(drawn) ^ set(flat))
        drawn = {path: drawn[path].reshape(x.shape) for path, x in flat.items()}
        return flax.traverse_util.unflatten_dict(drawn, sep='/')

    def draw_arrays(self):
        """Draws DeepLab2's variables by name, without that of the network."""
        return {
            name.partition('/')[2]: self._draw(name, shape) for name, shape in self.shapes.items()
        }

    def _draw(self, name, shape):
        z = self._rule.draw(name, shape)
        leaf = name.rpartition('/')[2]
        rules = {
            'moving_mean': lambda: 0.1 * z,
            'moving_variance': lambda: np.exp(0.2 * z),
            'gamma': lambda: 1 + 0.1 * z,
            'beta': lambda: 0.1 * z,
            'embeddings': lambda: z,
        }
        value = rules.get(leaf, lambda: z / np.sqrt(np.prod(shape[:-1])))()
        return value.astype(np.float32)

    def find_error(self, key, x):
        """The largest difference of one feature to its golden, relative to the golden's largest."""
        golden = self.features[key]
        step = x.shape[-1] // golden.shape[-1]
        return float(np.abs(np.asarray(x)[..., ::step] - golden).max() / np.abs(golden).max())
