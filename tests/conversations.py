"""Root and its workers as one value: every order in which they can act, over the classes that are shipped.

A message is taken in one at a time, whenever its receiver listens, so that every send is a rendezvous. `blocking` asks what
would happen if a rank waited until each of its messages was taken: what MPI_Send does with a message that is larger than the
MPI keeps.
"""

import pickle
from dataclasses import dataclass

from pipeline.mpi.conversation import ALIVE, Desk, Worker
from pipeline.run.deal import Deal


class Numbers:
    """A source of numbered tasks that keeps what was reported."""

    def __init__(self, n_tasks, size):
        self.deal = Deal([(number, 1.0) for number in range(n_tasks)], size=size)
        self.reported = []

    def give(self, rank):
        return [str(number).encode() for number in self.deal.give(rank)]

    def report(self, rank, report):
        self.deal.done(rank, int(report))
        self.reported.append(int(report))

    def lost(self, rank, **_):
        self.deal.lost(rank)

    @property
    def finished(self):
        return self.deal.finished


@dataclass
class Ranks:
    """A deal at one moment."""

    n_workers: int
    n_tasks: int
    root_works: bool = True
    leavers: frozenset = frozenset()
    root_may_stop: bool = False
    blocking: bool = False

    def __post_init__(self):
        ranks = range(1, self.n_workers + 1)
        self.mail = {(sender, receiver): [] for rank in ranks for sender, receiver in ((0, rank), (rank, 0))}
        self.source = Numbers(self.n_tasks, self.n_workers + 1)
        self.stopped = False
        self.desk = Desk(ranks, self.source, self.paused, self.tell)
        self.workers = {rank: Worker(Say(self.mail[rank, 0])) for rank in ranks}
        self.at_work = dict.fromkeys(ranks)
        self.left = set()
        self.gone = set()
        self.own = []
        self.root_deals = True
        for worker in self.workers.values():
            worker.ask()

    def paused(self):
        return self.stopped

    def tell(self, answer, rank):
        self.mail[0, rank].append(answer)

    # What can happen next: (name, rank) pairs, each a method of this class.

    def steps(self):
        """Every step that somebody may take now."""
        return [step for rank in range(self.n_workers + 1) if not self._waits(rank) for step in self._of(rank)]

    def _waits(self, rank):
        """Whether `rank` stands in a blocking send."""
        return self.blocking and any(messages for (sender, _), messages in self.mail.items() if sender == rank)

    def _of(self, rank):
        if rank == 0:
            return [*self._of_root()]
        return [*self._of_worker(rank)]

    def _of_root(self):
        for rank in self.workers:
            if self.mail[rank, 0]:
                yield "root_hears", rank
        yield "root_answers", 0
        if self.root_deals:
            yield ("root_finishes", 0) if self.own else ("root_begins", 0)
            yield "root_closes", 0
        if self.root_may_stop and not self.stopped:
            yield "root_is_asked_to_stop", 0

    def _of_worker(self, rank):
        worker = self.workers[rank]
        if rank in self.gone:
            return
        if rank in self.leavers and rank not in self.left and not worker.released:
            yield "worker_leaves", rank
        if self.at_work[rank] is not None:
            yield "worker_finishes", rank
            if ALIVE not in self.mail[rank, 0]:
                yield "worker_is_alive", rank
        elif worker.released:
            yield "worker_parts", rank
        elif worker._held:
            yield "worker_begins", rank
        elif self.mail[0, rank]:
            yield "worker_hears", rank

    def root_hears(self, rank):
        self.desk.hear(rank, self.mail[rank, 0].pop(0))

    def root_answers(self, _):
        self.desk.answer()

    def root_begins(self, _):
        if self.root_works and not self.source.finished and not self.desk.closing:
            self.own = self.source.give(0)

    def root_finishes(self, _):
        task = self.own.pop(0)
        if not self.desk.closing:
            self.source.report(0, task)

    def root_closes(self, _):
        """The loop of root's own work ends."""
        if not self.own and (self.source.finished or self.desk.closing or not self.root_works):
            self.root_deals = False
            if self.root_works and not self.source.finished:
                self.desk.drain()

    def root_is_asked_to_stop(self, _):
        self.stopped = True

    def worker_begins(self, rank):
        self.at_work[rank] = self.workers[rank].next_task()

    def worker_finishes(self, rank):
        self.workers[rank].report(self.at_work[rank])
        self.at_work[rank] = None

    def worker_is_alive(self, rank):
        self.workers[rank].is_alive()

    def worker_hears(self, rank):
        self.workers[rank].hear(self.mail[0, rank].pop(0))

    def worker_leaves(self, rank):
        self.left.add(rank)
        self.at_work[rank] = None
        self.workers[rank].leave()

    def worker_parts(self, rank):
        self.workers[rank].say_goodbye()
        self.gone.add(rank)

    @property
    def ended(self):
        """Everybody has gone, and nothing that was said is left unheard."""
        return not self.root_deals and self.desk.empty and len(self.gone) == self.n_workers and not any(self.mail.values())

    def state(self):
        """All that can make a difference from here on."""
        desk, deal = self.desk, self.source.deal
        return (
            tuple((tuple(worker._held), worker._leaving, worker.released) for worker in self.workers.values()),
            tuple(tuple(messages) for messages in self.mail.values()),
            tuple(self.at_work.values()),
            (frozenset(self.left), frozenset(self.gone), tuple(self.own), self.root_deals, self.stopped),
            (frozenset(desk._waiting), frozenset(desk._unreleased), frozenset(desk._working), desk._draining),
            (tuple(sorted(deal._open)), tuple(deal.held_by(rank) for rank in range(self.n_workers + 1))),
            tuple(sorted(self.source.reported)),
        )


class Say:
    """Puts a message into the sender's out-tray."""

    def __init__(self, tray):
        self.tray = tray

    def __call__(self, message):
        self.tray.append(message)


@dataclass
class Explored:
    """Every state that was reached; those from which nothing more can happen; those from which no end can be reached."""

    n_states: int
    ends: list
    stuck: list
    n_hopeless: int


def explore(ranks):
    """Take every step in every order from `ranks` on."""
    first = ranks.state()
    values, before, queue, ends, stuck = {first: pickle.dumps(ranks)}, {first: set()}, [first], [], []
    while queue:
        state = queue.pop()
        followed = {}
        for name, rank in pickle.loads(values[state]).steps():
            copy = pickle.loads(values[state])
            getattr(copy, name)(rank)
            followed.setdefault(copy.state(), copy)
        followed.pop(state, None)
        now = pickle.loads(values[state])
        if now.ended:
            ends.append(now)
        elif not followed:
            stuck.append(now)
        for next_state, copy in followed.items():
            if next_state not in values:
                values[next_state] = pickle.dumps(copy)
                queue.append(next_state)
            before.setdefault(next_state, set()).add(state)
    return Explored(len(values), ends, stuck, len(values) - len(_leading_to([end.state() for end in ends], before)))


def _leading_to(states, before):
    found, queue = set(states), list(states)
    while queue:
        for state in before[queue.pop()] - found:
            found.add(state)
            queue.append(state)
    return found
