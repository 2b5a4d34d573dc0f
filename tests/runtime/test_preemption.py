"""SIGTERM is remembered inside of the context and handled as before outside of it."""

import signal
import threading

import jax
import pytest
from jax.experimental import multihost_utils

from pdl_jax.runtime.preemption import Preemption


def _get_handler():
    return signal.getsignal(signal.SIGTERM)


def test_a_signal_is_remembered():
    before = _get_handler()
    with Preemption() as preemption:
        assert not preemption.is_requested()
        signal.raise_signal(signal.SIGTERM)
        assert preemption.is_requested() and preemption.is_requested()
    assert _get_handler() is before


def test_the_handler_is_restored_after_an_error():
    before = _get_handler()
    with pytest.raises(RuntimeError), Preemption():
        assert _get_handler() is not before
        raise RuntimeError
    assert _get_handler() is before


def test_a_second_context_forgets_the_first():
    with Preemption() as preemption:
        signal.raise_signal(signal.SIGTERM)
    with preemption:
        assert not preemption.is_requested()


def test_other_threads_leave_signals_alone():
    before, found = _get_handler(), []

    def run():
        with Preemption() as preemption:
            found.extend([_get_handler(), preemption.is_requested()])

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before, False] and _get_handler() is before


def test_several_processes_agree_on_the_step(monkeypatch):
    before, steps = _get_handler(), []

    def ask(step):
        steps.append(step)
        return step == 3

    monkeypatch.setattr(jax, 'process_count', lambda: 2)
    monkeypatch.setattr(multihost_utils, 'reached_preemption_sync_point', ask)
    with Preemption() as preemption:
        assert _get_handler() is before
        assert [preemption.is_requested() for _ in range(3)] == [False, False, True]
    assert steps == [1, 2, 3]
