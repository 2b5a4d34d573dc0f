"""The rules beyond the network in which the original programs differ, by the family of their presets.

What a family does not list is the default: the well-defined rule, which is DeepLab2's but for its choice of the highest centres
(arbitrary where more than K pass) and the merge of its custom op, whose rules `postprocess.merge` has too. Not re-enacted:
detectron2's offsets that are resized without being rescaled where an image is not shown at its own size, and its void id -1.
"""

from typing import Any

_PYTORCH_TARGETS = {'is_crowd_ignored': False, 'is_offset_to_pixel': False, 'is_crowd_drawn': True}
_PYTORCH_POSTPROCESS = {'top_k_rule': 'above_kth', 'score_rule': 'centroid'}

DIALECTS: dict[str, dict[str, dict[str, Any]]] = {
    'bowenc0221': {
        'targets': {**_PYTORCH_TARGETS, 'center_rounding': 'down'},
        'loss': {'scope': 'batch'},
        'postprocess': _PYTORCH_POSTPROCESS,
    },
    'detectron2': {
        'targets': _PYTORCH_TARGETS,
        'loss': {'scope': 'batch', 'offset_weight': 0.02},
        'postprocess': _PYTORCH_POSTPROCESS,
    },
}


def select_rules(preset: str, section: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Completes the fields of a section of the configuration by the rules of a preset's origin.

    Args:
      preset: of `models.presets.PRESETS`; what stands before the slash is the family.
      section: 'targets', 'loss' or 'postprocess'.
      fields: None where the configuration leaves a rule to the preset.

    Returns:
      The fields that are set, and those that the family sets where the configuration does not; what neither sets is left out.
    """
    rules = DIALECTS.get(preset.split('/')[0], {}).get(section, {})
    return {**rules, **{key: value for key, value in fields.items() if value is not None}}
