"""Pictures of what a run trains on and predicts, for TensorBoard and the workdir."""

import jax
import numpy as np
from ml_collections import ConfigDict

from pdl_jax.config import make_model, make_step_options, postprocess_arguments
from pdl_jax.data.catalog import DatasetSpec
from pdl_jax.drawing.grid import training_pictures
from pdl_jax.postprocess.panoptic import post_process
from pdl_jax.runtime.processes import compile_together
from pdl_jax.runtime.sharding import replicate, replicated
from pdl_jax.training.state import TrainState
from pdl_jax.training.step import make_training_samples
from pdl_jax.typing import Array


class PictureMaker:
    """Draws the first sample of a batch: its targets, and the network's predictions for it.

    Args:
      config: of the run.
      spec: names and colours of the classes.
      mesh: the devices.
    """

    def __init__(self, config: ConfigDict, spec: DatasetSpec, mesh: jax.sharding.Mesh):
        self._spec = spec
        model = make_model(config, spec.num_classes)
        options = make_step_options(config, spec.label_format)
        arguments = postprocess_arguments(config)

        def step(variables, batch, step_number):
            # The whole batch is augmented so that the first sample is the one that was trained on.
            images, targets = make_training_samples(batch, step_number, options)
            image, target = images[:1], jax.tree.map(lambda x: x[:1], targets)
            outputs = model.upsample(model.apply(replicate(variables), image), image.shape[1:3])
            maps = post_process(outputs, label_format=spec.label_format, **arguments)
            prediction = {'semantic': maps['semantic']}
            if 'center' in outputs:
                prediction['panoptic'] = maps['panoptic']
                prediction |= {'center': outputs['center'][..., 0], 'offset': outputs['offset']}
            else:
                # Targets that are not drawn need not be made.
                target = {key: target[key] for key in ('semantic', 'semantic_weight')}
            return jax.tree.map(lambda x: x[0], (image, target, prediction))

        self._step = jax.jit(step, out_shardings=replicated(mesh))
        self._compiled = None

    def __call__(self, state: TrainState, batch: dict[str, Array]) -> dict[str, np.ndarray]:
        """Draws the sample that the last step trained on.

        Args:
          state: after the step.
          batch: of the step.

        Returns:
          u8[H, W, 3] pictures by name.
        """
        arguments = (state.eval_variables, batch, state.step - 1)
        if self._compiled is None:
            self._compiled = compile_together(
                self._step, *arguments, name='the step of the pictures'
            )
        image, target, prediction = jax.device_get(self._compiled(*arguments))
        low, high = image.min(), image.max()
        # Stretched, since a normalised image has lost its grey levels.
        image = (255 * (image - low) / max(high - low, 1e-6)).astype(np.uint8)
        return training_pictures(
            image,
            target,
            prediction,
            label_format=self._spec.label_format,
            colors=self._spec.make_palette(),
        )
