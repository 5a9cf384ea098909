"""Agreement with scope-rl 0.2.1, an independent library, where conventions match.

It pins old packages, so it is no extra of ours: ``make test-ope`` puts it beside them.

Where they do not match: it knows equal-length episodes only, so shorter stays are handed to it
padded as absorbing (ratio 1, reward and Q 0), as its user has to; unpadded it would reshape one
stay's steps into another's. It adds 1e-10 to each denominator, so a log without support gives 0
where ours gives NaN with the step at which support was lost. It has no effective sample size.
"""

import numpy as np
import pytest

pytest.importorskip("scope_rl", reason="make test-ope")

from scope_rl.ope import discrete as theirs

from evaluation import estimators as ours

PAIRS = {
    theirs.TrajectoryWiseImportanceSampling: ours.importance_sampling,
    theirs.SelfNormalizedTIS: ours.weighted_importance_sampling,
    theirs.PerDecisionImportanceSampling: ours.per_decision_importance_sampling,
    theirs.SelfNormalizedPDIS: ours.weighted_per_decision_importance_sampling,
    theirs.DoublyRobust: ours.doubly_robust,
    theirs.SelfNormalizedDR: ours.weighted_doubly_robust,
    theirs.DirectMethod: ours.direct_method,
}


@pytest.mark.parametrize("variable", [False, True], ids=["equal lengths", "absorbing padding"])
@pytest.mark.parametrize("estimator", PAIRS, ids=lambda kind: kind.__name__)
def test_agreement(estimator, variable):
    rng = np.random.default_rng(7)
    n, steps, actions = 50, 8, 25
    lengths = rng.integers(1, steps + 1, n) if variable else np.full(n, steps)
    mask = np.arange(steps) < lengths[:, None]
    target, behavior = rng.dirichlet(np.ones(actions), (2, n, steps))
    action = rng.integers(0, actions, (n, steps))
    reward = np.where(mask, rng.normal(0, 5, (n, steps)), 0)
    q = np.where(mask[..., None], rng.normal(0, 5, (n, steps, actions)), 0)
    stay, step = np.indices((n, steps))
    behavior[~mask] = target[~mask]  # a ratio of 1 after the end
    taken = behavior[stay, step, action]
    value = estimator().estimate_policy_value(
        step_per_trajectory=steps,
        action=action.ravel(),
        reward=reward.ravel(),
        pscore=taken.ravel(),
        evaluation_policy_action_dist=target.reshape(-1, actions),
        state_action_value_prediction=q.reshape(-1, actions),
        gamma=0.9,
    )
    terms = ours.terms(
        PAIRS[estimator],
        reward,
        target[stay, step, action] / taken,
        mask,
        gamma=0.9,
        q_taken=q[stay, step, action],
        v=(q * target).sum(-1),
    )
    assert value == pytest.approx(terms.value(), rel=1e-6)
