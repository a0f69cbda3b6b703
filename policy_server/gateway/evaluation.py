"""Which episodes are played greedily, not trained on, and counted apart.

The server decides per lane at the start of an episode; the simulator need not know. The first
episodes to *start* are chosen, and all of them are waited for, so that short ones are not
preferred.
"""

from __future__ import annotations

from policy_server.types import Episode


class Evaluation:
    """Evaluation episodes of one policy.

    Attributes:
        wanted: episodes still to be started.
        running: started, not finished.
        exclusive: nothing is trained on until the evaluation of *every* policy is over, when the
            gateway takes it back: lanes of several policies share requests.
        always: every episode is one, without end.
        episodes: finished ones of the evaluation under way.
        last: those of the last complete evaluation.
        completed: evaluations so far.
    """

    def __init__(self) -> None:
        self.wanted = 0
        self.running = 0
        self.exclusive = False
        self.always = False
        self.episodes: list[Episode] = []
        self.last: list[Episode] = []
        self.completed = 0

    @property
    def active(self) -> bool:
        return self.always or self.wanted > 0 or self.running > 0

    def request(self, episodes: int, exclusive: bool) -> None:
        """Begins an evaluation; one that is under way is given up."""
        self.wanted = episodes
        self.running = 0
        self.exclusive = exclusive
        self.episodes = []

    def claim(self, starting: int) -> int:
        """How many of `starting` episodes become evaluation episodes."""
        claimed = starting if self.always else min(self.wanted, starting)
        self.wanted = max(0, self.wanted - claimed)
        self.running += claimed
        return claimed

    def over(self, episode: Episode) -> None:
        """An evaluation episode ended; one that was interrupted is played again."""
        self.running = max(0, self.running - 1)
        if episode.ending == "interrupted" or not episode.complete:
            if not self.always:
                self.wanted += 1
        else:
            self.episodes.append(episode)
        if not self.active:
            self.last, self.episodes = self.episodes, []
            self.completed += 1
