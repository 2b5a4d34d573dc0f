"""The recipe of MaX-DeepLab-S for COCO in DeepLab2."""

from pdl_jax.presets.preset import MAX_SYSTEM, Preset

MAX_PRESETS: dict[str, Preset] = {
    'deeplab2/max_deeplab_s_os16': Preset(
        MAX_SYSTEM,
        model={
            'backbone': 'max_s',
            'output_stride': 16,
            'endpoints': 'unactivated',
            'drop_path_keep_prob': 0.8,
            'transformer_keep_prob': 0.8,
        },
        loss={'semantic_samples_px': 0},
        postprocess={
            'convention': 'deeplab2',
            'merge_rule': 'pixel_wise',
            'thing_threshold': 0.7,
            'stuff_threshold': 0.7,
            'pixel_threshold': 0.4,
            'thing_area_limit_px': 100,
            'stuff_area_limit_px': 1600,
        },
    )
}
