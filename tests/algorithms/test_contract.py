"""Algorithms from outside that lack something are refused before anything starts."""

from __future__ import annotations

import functools
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import pytest
import torch

from policy_server import AlgorithmConfig, algorithms
from policy_server.acting import EpsilonGreedy
from policy_server.algorithms.contract import check_options, check_page, check_values
from policy_server.algorithms.own_loss import OwnLoss
from policy_server.algorithms.own_loss_options import OwnLossTraining
from policy_server.algorithms.supports import Supports
from policy_server.errors import ConfigError


@dataclass(frozen=True)
class Fine(algorithms.Training):
    train_batch_size: int = 8
    share: float = 0.5

    @property
    def acting(self) -> Any:
        return EpsilonGreedy(((0, self.share),))


class Page:
    @staticmethod
    def make_network(spaces: Any, model: Any, training: Any) -> Any: ...

    def __init__(self, spaces: Any, model: Any, training: Any, *, seed: int, device: Any,
                 reward_scale: float = 1.0, reward_clip: float | None = None): ...  # fmt: skip

    def update(self, batch: Any, env_steps: int) -> Any: ...

    def state(self) -> Any: ...

    def load(self, state: Any) -> None: ...


@pytest.mark.parametrize("name", algorithms.names())
def test_ours_are_as_those_of_others_must_be(name: str) -> None:
    training, page = algorithms.get(name)
    check_options(training)
    check_values(training())
    check_page(page)


def test_ours_are_looked_at_like_those_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare(algorithms.Training):
        train_batch_size: int = 8

    class Forgetful(Page):
        load: Any = None

    monkeypatch.setitem(algorithms._PAGES, "PPO", (Fine, Forgetful))
    with pytest.raises(ConfigError, match=r"methods .*, got none named load"):
        algorithms.get("PPO")
    monkeypatch.setitem(algorithms._PAGES, "PPO", (Bare, Page))
    for look in (algorithms.get, algorithms.training_class):
        with pytest.raises(ConfigError, match="Bare to be a dataclass"):
            look("PPO")


@dataclass(frozen=True)
class Demanding(algorithms.Training):
    """Values that only the user knows, after a marker."""

    _: KW_ONLY
    expert: str
    train_batch_size: int = 8

    def __post_init__(self) -> None:
        if not self.expert:
            raise ConfigError(
                "training.expert: expected the file with what to imitate, got nothing."
            )

    @property
    def off_policy(self) -> bool:  # type: ignore[override]
        return self.train_batch_size > 100

    @property
    def supports(self) -> Supports:  # type: ignore[override]
        return Supports(continuous=False)


class Renamed(OwnLossTraining):
    title: ClassVar[str] = "no option of its own, so that it need not be a dataclass"


class InSteps(Page):
    update: Any = None

    def update_in_steps(self, batch: Any, env_steps: int) -> Any:
        yield


class Stateless(Page):
    @staticmethod
    def state() -> Any: ...  # type: ignore[override]

    @classmethod
    def load(cls, state: Any) -> None: ...


class Delegating:
    make_network = Page.make_network
    __init__ = Page.__init__

    def __getattr__(self, name: str) -> Any:
        return getattr(Page, name)


class Partial(Page):
    load: Any = functools.partial(print, "loaded")


class Compiled(Page):
    load: Any = dict.update  # of which no signature is known


@pytest.mark.parametrize("page", [Page, InSteps, Stateless, Delegating, Partial, Compiled, OwnLoss])
def test_pages_that_have_all_are_taken(page: type) -> None:
    check_page(page)


@pytest.mark.parametrize("options", [Fine(), Demanding(expert="e.npz"), Renamed()])
def test_options_that_say_all_are_taken(options: Any) -> None:
    check_options(type(options))
    check_values(options)


class NotDerived:
    train_batch_size: int = 8


class NoDataclass(algorithms.Training):
    pass


class Undecorated(Fine):
    margin: float = 0.0


@dataclass(frozen=True)
class NoSteps(algorithms.Training):
    lr: float = 1.0


@dataclass(frozen=True)
class TupleOfSupports(Fine):
    supports: ClassVar[Any] = ("Discrete",)


@dataclass(frozen=True)
class Synch(Fine):
    mode: ClassVar[str] = "synch"


@dataclass(frozen=True)
class Maybe(Fine):
    off_policy: ClassVar[Any] = "yes"


@dataclass(frozen=True)
class Greedy(Fine):
    @property
    def acting(self) -> Any:
        return "epsilon_greedy"


@dataclass(frozen=True)
class Fraction(Fine):
    @property
    def batch_steps(self) -> Any:
        return 0.5


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (NotDerived, r"options NotDerived to be derived from policy_server.algorithms.Training"),
        (NoDataclass, r"NoDataclass to be a dataclass.*write @dataclass\(frozen=True\)"),
        (Undecorated, r"Undecorated to be a dataclass"),
    ],
)
def test_classes_that_are_none_of_options_are_told(training: type, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_options(training)


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (NoSteps, r"x: NoSteps failed: AttributeError.*Is train_batch_size among"),
        (TupleOfSupports, r"TupleOfSupports.supports to be a .*Supports, got \('Discrete',\)"),
        (Synch, r"Synch.mode to be 'sync' or 'async', got 'synch'"),
        (Maybe, r"Maybe.off_policy to be True or False, got 'yes'"),
        (Greedy, r"Greedy.acting to be one of the classes in policy_server.acting"),
        (Fraction, r"Fraction.batch_steps to be an integer, got 0.5"),
    ],
)
def test_options_that_lack_something_are_told(training: type, words: str) -> None:
    check_options(training)
    with pytest.raises(ConfigError, match=words):
        check_values(training(), "x")


class NoUpdate(Page):
    update: Any = None


class NoLoad(Page):
    load: Any = None


class ModuleWithoutUpdate(NoUpdate, torch.nn.Module):
    pass


class DelegatingWithoutNetwork:
    __init__ = Page.__init__
    __getattr__ = Delegating.__getattr__


class FewArguments(Page):
    def update(self, batch: Any) -> Any: ...  # type: ignore[override]


class OwnConstructor(Page):
    def __init__(self, spaces: Any, training: Any):
        pass


class BoundNetwork(Page):
    def make_network(self, spaces: Any, model: Any, training: Any) -> Any: ...  # type: ignore[override]


class SteppingUpdate(Page):
    def update(self, batch: Any, env_steps: int) -> Any:
        yield


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (NoUpdate, "NoUpdate to have the methods .*update, got none named update"),
        (ModuleWithoutUpdate, "got none named update"),
        (DelegatingWithoutNetwork, "got none named make_network"),
        (NoLoad, "NoLoad to have the methods .*, got none named load"),
        (FewArguments, r"FewArguments.update to take \(batch, env_steps\), got something else"),
        (SteppingUpdate, "SteppingUpdate.update to return .*generator: call it `update_in_steps`"),
        (OwnConstructor, r"OwnConstructor to take \(spaces, model, training, seed=, device="),
        (BoundNetwork, r"BoundNetwork.make_network to take \(spaces, model=, training=\)"),
    ],
)
def test_pages_that_lack_something_are_told(page: type, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_page(page)


def test_all_is_looked_at_when_settings_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algorithms, "_PAGES", dict(algorithms._PAGES))
    algorithms.register("NoUpdate", Fine, NoUpdate)
    algorithms.register("Synch", Synch, Page)
    algorithms.register("Demanding", Demanding, Page)
    for name, words in (("NoUpdate", "none named update"), ("Synch", "training: .*Synch.mode")):
        with pytest.raises(ConfigError, match=words):
            AlgorithmConfig(name).settings()
    settings = AlgorithmConfig("Demanding").training(expert="e.npz").settings()
    assert settings.training == Demanding(expert="e.npz")
    assert algorithms.get("Demanding") == (Demanding, Page)


def test_a_policy_of_its_own_algorithm_says_what_that_demands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(algorithms, "_PAGES", dict(algorithms._PAGES))
    algorithms.register("Demanding", Demanding, Page)

    def settings(training: dict[str, Any]) -> Any:
        own = {"b": {"algorithm": "Demanding", "training": training}}
        multi = {"policies": {"a": {}, **own}, "policy_mapping": {"x": "a", "*": "b"}}
        return AlgorithmConfig("PPO").multi_agent(**multi).settings()

    found = settings({"expert": "e.npz"}).policy_settings("b")
    assert found.training == Demanding(expert="e.npz")
    with pytest.raises(ConfigError, match=r"multi_agent.policies.b: .*'expert'"):
        settings({})
