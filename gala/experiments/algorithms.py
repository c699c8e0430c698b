"""The algorithms that ``gala compare`` knows: what each sets beyond the settings that all have in common."""

from __future__ import annotations

ALGORITHMS: dict[str, dict[str, str]] = {
    "a2c": {"algo": "a2c"},
    "allreduce": {"algo": "allreduce"},
    "independent": {"algo": "independent"},
    "gala": {"algo": "gala"},
    "gala-sync": {"algo": "gala", "gossip.tau": "0"},
    "gala-overlap": {"algo": "gala", "gossip.overlap": "true"},
    "copy-average": {"algo": "gala", "gossip.mixing": "copy-average"},
    "slowmo-gala": {"algo": "gala", "slowmo.every": "48"},
}
"""Name -> settings of ``gala train``. gala-sync waits for its peers' messages, so it can be repeated bit for bit;
copy-average is GALA's Algorithm 1; 48 updates between slow steps is what SlowMo (arXiv 1910.00643) takes on gossip."""

BASELINE = "a2c"


def words(name: str, learners: int, envs: int) -> tuple[str, ...]:
    """The settings of one algorithm with ``envs`` simulators over all learners.

    Raises:
        ValueError: there is no such algorithm, or the simulators cannot be shared equally.
    """
    if name not in ALGORITHMS:
        raise ValueError(f"algos={name} is unknown; use some of {', '.join(ALGORITHMS)}")
    n = 1 if ALGORITHMS[name]["algo"] == "a2c" else learners
    if envs < n or envs % n:
        raise ValueError(f"envs={envs} cannot be shared equally among {n} learners; change envs or learners")
    own = (f"{key}={text}" for key, text in ALGORITHMS[name].items())
    return (*own, f"learners={n}", f"envs_per_learner={envs // n}")
