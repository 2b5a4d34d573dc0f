"""A student's lessons from a teacher: another network of the same classes, which does not train."""

import dataclasses
from collections.abc import Mapping

from jax import lax

from pdl_jax.losses.distillation import DistillationOptions, blend_losses, compare_lessons
from pdl_jax.ops.placement import split_rows
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.systems.system import Outputs, System, Variables, image_size
from pdl_jax.typing import Array


@dataclasses.dataclass(frozen=True)
class Distillation:
    """A teacher within a train step.

    Attributes:
      teacher: the teacher's system.
      variables: the teacher's variables, arguments of the step.
      options: what is learnt from it.
    """

    teacher: System
    variables: Variables
    options: DistillationOptions

    def compare(self, student: System, outputs: Outputs, images: Array) -> dict[str, Array]:
        """Compares a student with its teacher, which runs in inference mode, without gradient.

        Args:
          student: the student's system.
          outputs: the student's, as its loss has them.
          images: f32[B, H, W, C], normalised, as the student saw them.

        Returns:
          f32[] by name, see `compare_lessons`.

        Raises:
          ValueError: they have nothing in common, or `options.terms` names something else.
        """
        size, teacher = image_size(images), self.teacher
        given = ask_teacher(teacher, lax.stop_gradient(self.variables), images)
        theirs = teacher.lessons(lax.stop_gradient(given), size=size)
        ours = student.lessons(outputs, size=size)
        common = [name for name in ours if name in theirs]
        chosen = self.options.terms or tuple(common)
        if not chosen or not set(chosen) <= set(common):
            raise ValueError(
                f'config.distill.terms (={self.options.terms!r}) may hold {common}, what '
                f'{type(student).__name__} and its teacher, {type(teacher).__name__}, have in '
                f'common'
            )
        return compare_lessons(
            {name: ours[name] for name in chosen},
            theirs,
            temperature=self.options.temperature,
            resize=student.grid.resize,
        )


def ask_teacher(teacher: System, variables: Variables, images: Array) -> Outputs:
    """Runs a teacher on f32[B, H, W, C] at the nearest size that it takes."""
    size = teacher.grid.fit(image_size(images))
    resized: Array = resize_bilinear(images, size, teacher.grid.resize)
    return teacher.outputs(variables, split_rows(resized))


def add_distillation(
    loss: Array,
    terms: Mapping[str, Array],
    distillation: Distillation | None,
    student: System,
    outputs: Outputs,
    images: Array,
) -> tuple[Array, dict[str, Array]]:
    """Blends a loss with the terms of a teacher, if there is one.

    Args:
      loss, terms: those of the task.
      distillation: the teacher.
      student, outputs, images: see `Distillation.compare`.
    """
    if distillation is None:
        return loss, dict(terms)
    distilled = distillation.compare(student, outputs, images)
    return blend_losses(loss, terms, distilled, weight=distillation.options.weight)
