"""Distillation: a student's outputs beside those of a trained teacher on the same images.

    L = (1 - a) L_task + a (tau^2 KL(softmax(t / tau) || softmax(s / tau)) + further terms)

Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015; Liu et al., Search to
Distill, CVPR 2020, for the weights; the terms of pixels average over them.
"""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from pdl_jax.losses.matching import match_rows
from pdl_jax.ops.resize import resize_bilinear
from pdl_jax.typing import Array, check_positive, check_share

_EPSILON = 1e-5
# Logits of probabilities beyond these differ in rounding only.
_MAX_LOGIT = 30.0


@dataclasses.dataclass(frozen=True)
class DistillationOptions:
    """The teacher of a run, and what is learnt from it; see configs/common.py.

    Attributes:
      teacher: checkpoint or workdir of the teacher; '' for none.
      temperature: tau, by which logits are divided.
      weight: a, the weight of the teacher; 1 ignores the labels.
      terms: names of what is compared, see `System.lessons`; () for all that both have.
    """

    teacher: str = ''
    temperature: float = 1.0
    weight: float = 0.5
    terms: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_positive('distill', self, 'temperature')
        check_share('distill', self, 'weight')


class Lesson(NamedTuple):
    """A quantity by which a student is compared with its teacher.

    Attributes:
      kind: 'classes' (logits of one class per pixel, or per image of one pixel), 'chances' (logits
        of independent probabilities), 'heat' (squared differences), 'offsets' (absolute ones), or
        'queries' (logits of one query per pixel, each with logits of its class).
      values: f32[B, h, w, D].
      weight: factor of the term.
      share: f32[B, h, w], how much each pixel counts; None for all alike. The teacher's decides.
      classes: f32[B, N, K], the class logits of queries.
    """

    kind: str
    values: Array
    weight: float = 1.0
    share: Array | None = None
    classes: Array | None = None


def divergence(student: Array, teacher: Array, *, temperature: float = 1.0) -> Array:
    """Computes the Kullback-Leibler divergence of softened distributions, in nats.

    Args:
      student, teacher: f32[..., C], logits.
      temperature: by which both are divided.

    Returns:
      f32[...], KL(softmax(teacher / tau) || softmax(student / tau)), without the factor tau^2.
    """
    log_student = jax.nn.log_softmax(student / temperature)
    log_teacher = jax.nn.log_softmax(teacher / temperature)
    return jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), axis=-1)


def compare_lessons(
    student: Mapping[str, Lesson],
    teacher: Mapping[str, Lesson],
    *,
    temperature: float,
    resize: str = 'half_pixel',
) -> dict[str, Array]:
    """Compares a student with its teacher by what both have.

    Args:
      student, teacher: by name; the weights are those of the student. Values of the teacher are
        resized to the size of the student's.
      temperature: for logits; their terms get the factor tau^2, which keeps their gradients in
        proportion.
      resize: mode of the resize, see `ops.resize.resize_bilinear`.

    Returns:
      f32[] by name, weighted means over the batch; 'NAME_class' beside the term of queries.
    """
    terms = {}
    for name, ours in student.items():
        if name not in teacher:
            continue
        theirs = _fit(teacher[name], ours, resize)
        if ours.kind == 'queries':
            masks, classes = _compare_queries(ours, theirs, temperature)
            terms |= {name: ours.weight * masks, f'{name}_class': ours.weight * classes}
        else:
            terms[name] = ours.weight * _compare(ours, theirs, temperature)
    return terms


def blend_losses(
    loss: Array, terms: Mapping[str, Array], distilled: Mapping[str, Array], *, weight: float
) -> tuple[Array, dict[str, Array]]:
    """Blends the loss of a task with the terms of its teacher.

    Args:
      loss, terms: those of the task.
      distilled: those of the teacher, see `compare_lessons`.
      weight: of the teacher.

    Returns:
      (1 - weight) loss + weight sum(distilled), and its terms; the teacher's are 'distill_...'.
    """
    blended = {name: (1 - weight) * x for name, x in terms.items()}
    blended |= {f'distill_{name}': weight * x for name, x in distilled.items()}
    return (1 - weight) * loss + weight * sum(distilled.values(), jnp.float32(0)), blended


def _fit(lesson: Lesson, like: Lesson, resize: str) -> Lesson:
    """Resizes the values of a lesson to the size of another's."""
    size = (like.values.shape[1], like.values.shape[2])
    if lesson.values.shape[1:3] == size:
        return lesson
    share = lesson.share
    if share is not None:
        resized: Array = resize_bilinear(share[..., None], size, resize)
        share = resized[..., 0]
    return lesson._replace(values=resize_bilinear(lesson.values, size, resize), share=share)


def _compare(student: Lesson, teacher: Lesson, temperature: float) -> Array:
    ours, theirs = student.values.astype(jnp.float32), teacher.values.astype(jnp.float32)
    if student.kind == 'classes':
        return temperature**2 * jnp.mean(divergence(ours, theirs, temperature=temperature))
    if student.kind == 'chances':
        pairs = (
            jnp.stack([x, jnp.zeros_like(x)], axis=-1).clip(-_MAX_LOGIT, _MAX_LOGIT)
            for x in (ours, theirs)
        )
        return temperature**2 * jnp.mean(divergence(*pairs, temperature=temperature))
    if student.kind == 'heat':
        errors = jnp.mean((ours - theirs) ** 2, axis=-1)
    else:
        difference = ours - theirs
        # Not jnp.abs, whose gradient at 0 is 1.
        errors = jnp.mean(difference * jnp.sign(lax.stop_gradient(difference)), axis=-1)
    if teacher.share is None:
        return jnp.mean(errors)
    return jnp.sum(errors * teacher.share) / jnp.maximum(jnp.sum(teacher.share), _EPSILON)


def _compare_queries(student: Lesson, teacher: Lesson, temperature: float) -> tuple[Array, Array]:
    """Compares masks and classes of queries, each of the teacher's with one of the student's.

    Queries are matched at the highest total of dice similarity times the product of their class
    probabilities. A teacher's query without a partner, where it has more of them, does not count.
    """
    if student.classes is None or teacher.classes is None:
        raise ValueError('queries are compared by their masks and their classes')
    log_masks = jax.nn.log_softmax(student.values / temperature)
    log_classes = jax.nn.log_softmax(student.classes / temperature)
    match = jax.vmap(_match_queries)(
        *lax.stop_gradient((student.values, student.classes, teacher.values, teacher.classes))
    )
    # One-hot products: gathers over pixels are slow on TPU.
    pairs = jax.nn.one_hot(match, student.values.shape[-1])
    is_matched = jnp.sum(pairs, axis=-1)
    masks = jax.nn.softmax(teacher.values / temperature)
    log_teacher = jax.nn.log_softmax(teacher.values / temperature)
    difference = log_teacher - jnp.einsum('bhwn,bmn->bhwm', log_masks, pairs)
    mask_term = jnp.mean(jnp.sum(masks * difference * is_matched[:, None, None], axis=-1))
    log_own = jax.nn.log_softmax(teacher.classes / temperature)
    partner = jnp.einsum('bnk,bmn->bmk', log_classes, pairs)
    class_losses = jnp.sum(jnp.exp(log_own) * (log_own - partner), axis=-1) * is_matched
    class_term = jnp.sum(class_losses) / jnp.maximum(jnp.sum(is_matched), 1)
    return temperature**2 * mask_term, temperature**2 * class_term


def _match_queries(
    masks: Array, classes: Array, teacher_masks: Array, teacher_classes: Array
) -> Array:
    """Returns i32[M], the student's query of each of the teacher's; -1 without one."""
    ours = jax.nn.softmax(masks).reshape(-1, masks.shape[-1])
    theirs = jax.nn.softmax(teacher_masks).reshape(-1, teacher_masks.shape[-1])
    # A squared size makes two equal soft masks agree wholly.
    sizes = jnp.sum(theirs**2, axis=0)[:, None] + jnp.sum(ours**2, axis=0)
    dice = 2 * theirs.T @ ours / (sizes + _EPSILON)
    agreement = jax.nn.softmax(teacher_classes) @ jax.nn.softmax(classes).T
    return match_rows(-dice * agreement, jnp.ones(theirs.shape[-1], bool))
