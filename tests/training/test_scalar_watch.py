"""Scalars are read one step late and must be finite."""

import jax.numpy as jnp
import pytest

from pdl_jax.training.scalar_watch import ScalarWatch


class _Checkpointer:
    def __init__(self, latest_step=None, error=None):
        self.latest_step, self.directory = latest_step, 'runs/a/checkpoints'
        self.num_waits, self._error = 0, error

    def wait(self):
        self.num_waits += 1
        if self._error is not None:
            raise self._error


def _make_scalars(loss, norm=1.0):
    return {'loss': jnp.float32(loss), 'gradient_norm': jnp.float32(norm)}


def test_a_step_is_read_when_the_next_one_runs():
    watch = ScalarWatch(_Checkpointer())
    assert watch.push(1, _make_scalars(3.0)) == {}
    assert watch.push(2, _make_scalars(2.0, 0.5)) == {'loss': 3.0, 'gradient_norm': 1.0}
    assert watch.read() == {'loss': 2.0, 'gradient_norm': 0.5}
    # Nothing is pending; callers may add to what they get.
    watch.read()['num_unreadable'] = 1
    assert watch.read() == {'loss': 2.0, 'gradient_norm': 0.5}


@pytest.mark.parametrize(
    ('scalars', 'message'),
    [
        (_make_scalars(jnp.nan), 'loss nan and gradient norm 1.0'),
        (_make_scalars(2.0, jnp.inf), 'loss 2.0 and gradient norm inf'),
    ],
)
def test_a_value_that_is_not_finite_names_the_last_good_checkpoint(scalars, message):
    checkpointer = _Checkpointer(latest_step=4)
    watch = ScalarWatch(checkpointer)
    # The step itself goes unnoticed until the next one, which may run meanwhile.
    watch.push(5, scalars)
    with pytest.raises(
        FloatingPointError,
        match=f'step 5 has {message}; the last good checkpoint is step 4 in runs/a/checkpoints',
    ):
        watch.push(6, _make_scalars(1.0))
    # A save that is still being written counts.
    assert checkpointer.num_waits == 1


def test_without_a_checkpoint_the_error_says_so():
    watch = ScalarWatch(_Checkpointer(error=OSError('disk full')))
    watch.push(1, _make_scalars(jnp.nan))
    with pytest.raises(FloatingPointError, match='there is no checkpoint yet. Lower config.opt'):
        watch.read()
