"""The deal gives each task to one rank, costliest first, and none is lost."""

import random

from pipeline.run.deal import Deal


def test_dearest_tasks_go_first():
    deal = Deal([(0, 1.0), (1, 9.0), (2, 5.0)], size=1)
    assert deal.give(0) + (deal.done(0, 1) or deal.give(0)) == [1, 2]


def test_nobody_holds_a_task_ahead_of_need_near_the_end():
    deal = Deal([(n, 1.0) for n in range(5)], size=2)
    assert len(deal.give(0)) == 1


def test_every_task_is_done_once_though_ranks_die():
    draw = random.Random(7)
    deal, done = Deal([(n, draw.random()) for n in range(200)], size=5), []
    hands = {rank: [] for rank in range(5)}
    while not deal.finished:
        rank = draw.choice(sorted(hands))
        hands[rank] += deal.give(rank)
        if hands[rank] and draw.random() < 0.05 and len(hands) > 1:
            assert sorted(hands.pop(rank)) == deal.lost(rank)
        elif hands[rank]:
            task = hands[rank].pop(0)
            deal.done(rank, task)
            done.append(task)
    assert sorted(done) == list(range(200))
