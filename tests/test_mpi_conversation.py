"""No deal can hang, lose a task or leave a message unheard, in whatever order its ranks act."""

from functools import cache

import pytest

from tests.conversations import Ranks, explore

WORLDS = {
    "nothing to do": Ranks(2, 0),
    "one worker": Ranks(1, 4),
    "tasks dealt ahead": Ranks(1, 9),
    "tasks dealt ahead, then left": Ranks(1, 8, root_works=False, leavers=frozenset({1})),
    "two workers that hold tasks ahead": Ranks(2, 9, root_works=False),
    "root only deals": Ranks(2, 3, root_works=False),
    "two workers": Ranks(2, 3),
    "a worker leaves": Ranks(1, 3, leavers=frozenset({1})),
    "one of two leaves": Ranks(2, 2, leavers=frozenset({1})),
    "both leave": Ranks(2, 2, root_works=False, leavers=frozenset({1, 2})),
    "root is asked to stop": Ranks(2, 2, root_may_stop=True),
    "root stops as a worker leaves": Ranks(1, 3, root_may_stop=True, leavers=frozenset({1})),
}


@cache
def explored(name):
    return explore(WORLDS[name])


@pytest.mark.parametrize("name", WORLDS)
def test_every_order_of_events_comes_to_an_end_with_every_message_heard(name):
    found = explored(name)
    assert found.stuck == []
    assert found.n_hopeless == 0
    assert found.ends


@pytest.mark.parametrize("name", WORLDS)
def test_every_task_is_done_once_unless_somebody_stopped_early_and_never_twice(name):
    world = WORLDS[name]
    for end in explored(name).ends:
        assert len(set(end.source.reported)) == len(end.source.reported)
        if not end.left and not end.stopped:
            assert sorted(end.source.reported) == list(range(world.n_tasks))
            assert end.source.finished
        assert all(not end.source.deal.held_by(rank) for rank in end.workers)


def test_the_model_finds_the_hang_of_two_sends_that_wait_for_each_other():
    found = explore(Ranks(1, 9, blocking=True))
    assert any(state.mail[0, 1] and state.mail[1, 0] for state in found.stuck)
