"""Probabilities of all doses out of one pass, and what is learned from them."""

import json

import pytest

pytest.importorskip("trl", reason="needs the train extra")

import torch

from agents.curriculum import CurriculumConfig
from agents.curriculum.config import ReinforcementConfig
from agents.curriculum.doses import branched, of_doses, softened
from agents.curriculum.rollout import digits_at, level_tokens
from agents.curriculum.tiny import make_model, make_tokenizer, plain_tokenizer
from agents.curriculum.train import _score_only_what_is_learned
from agents.llm import prompt
from agents.llm.dialogue import render
from sepsis_gym.actions import N_ACTIONS, decode_action
from sepsis_gym.errors import ConfigError

TOOLS = prompt.tools(simulate=False)


def dialogue(hour, fluid, vasopressor, said=""):
    doses = {"iv_fluid": fluid, "vasopressor": vasopressor}
    function = {"name": "prescription", "arguments": json.dumps(doses)}
    call = {"id": "0", "type": "function", "function": function}
    asked = {"role": "user", "content": f"Hour {hour}, in which level 3 runs."}
    return [asked, {"role": "assistant", "content": said, "tool_calls": [call]}]


@pytest.fixture(scope="module")
def tokenizer():
    plain = plain_tokenizer()
    told = [dialogue(4 * k, k % 5, k // 5 % 5, "Good." * (k % 2)) for k in range(50)]
    return make_tokenizer([render(plain, one, TOOLS, answering=False) for one in told])


def split(tokenizer, messages):
    """Tokens of a dialogue up to where the model answers, and of its answer."""
    opening = render(tokenizer, messages[:1], TOOLS)
    rest = render(tokenizer, messages, TOOLS, answering=False)[len(opening) :]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (opening, rest)]


def test_the_digits_of_a_prescription_are_found(tokenizer):
    _, answer = split(tokenizer, dialogue(8, 3, 1, "Good."))
    fluid, vasopressor = digits_at(tokenizer, answer)
    levels = level_tokens(tokenizer)
    assert (answer[fluid], answer[vasopressor]) == (levels[3], levels[1])
    other = tokenizer('{"vasopressor": 1, "iv_fluid": 3}', add_special_tokens=False)["input_ids"]
    assert digits_at(tokenizer, other) == (-1, -1)
    assert digits_at(tokenizer, answer[:vasopressor]) == (-1, -1)
    assert digits_at(tokenizer, []) == (-1, -1)


def test_one_pass_tells_the_probabilities_of_all_doses_and_of_the_words(tokenizer):
    """As many passes over the dialogue with each dose in it tell the same."""
    from trl.trainer.utils import add_fused_lm_head

    torch.manual_seed(0)
    network = make_model(tokenizer).eval()
    for weight in network.parameters():
        weight.data *= 3  # far from even
    add_fused_lm_head(network, outputs=("log_probs", "entropy"))
    told = [dialogue(8, 3, 1), dialogue(120, 0, 4, "Good."), dialogue(12, 2, 2)]
    parts = [split(tokenizer, one) for one in told]
    first, length = (max(map(len, texts)) for texts in zip(*parts, strict=True))
    ids = torch.zeros(3, first + length, dtype=torch.long)
    attended = torch.zeros_like(ids)
    for row, (opening, answer) in enumerate(parts):
        span = slice(first - len(opening), first + len(answer))
        ids[row, span], attended[row, span] = torch.tensor(opening + answer), 1
    digits = [digits_at(tokenizer, answer) for _, answer in parts]
    digits[2] = (-1, -1)
    tree = branched(ids, attended, first, digits, level_tokens(tokenizer))
    with torch.no_grad():
        out = network(**tree, fused_lm_head=True).log_probs
        t = ids.shape[1]
        doses = of_doses(out[:, t:], tree["shift_labels"][:, t:])
        assert doses[2].tolist() == [0.0] * N_ACTIONS
        for row, (opening, answer) in enumerate(parts):
            whole = torch.tensor([opening + answer])
            alone = network(whole).logits.log_softmax(-1)[0, :-1]
            said = alone.gather(1, whole[0, 1:, None])[len(opening) - 1 :, 0]
            words = out[row, first - 1 : first - 1 + len(answer)]
            torch.testing.assert_close(words, said, atol=1e-4, rtol=1e-4)
        for row in (0, 1):
            opening, answer = parts[row]
            for action in range(N_ACTIONS):
                other = list(answer)
                for place, level in zip(digits[row], decode_action(action), strict=True):
                    other[place] = level_tokens(tokenizer)[int(level)]
                whole = torch.tensor([opening + other])
                logs = network(whole).logits.log_softmax(-1)[0, :-1].gather(1, whole[0, 1:, None])
                log = sum(logs[len(opening) - 1 + place, 0] for place in digits[row])
                assert doses[row, action].item() == pytest.approx(log.exp().item(), rel=1e-3)
    assert doses[0].max() > 100 * doses[0].min() > 0


def test_what_a_model_is_sure_of_is_learned_about_too():
    """Order and certainty stay, and a dose given once in a thousand times gets a real gradient."""
    doses = torch.full((2, N_ACTIONS), 1e-6, dtype=torch.float64)
    doses[0, 3], doses[0, 7], doses[1] = 1 - 1e-3, 1e-3, 0
    doses.requires_grad_()
    told = softened(doses)
    assert told[1].tolist() == [0.0] * N_ACTIONS
    assert told[0].sum().item() == pytest.approx(1)
    assert told[0].argmax() == 3
    assert told[0, 7] > 20 * doses[0, 7]
    told[0, 7].backward()
    assert torch.isfinite(doses.grad).all()
    assert doses.grad[0, 7] > 0


@pytest.mark.parametrize("wrong", [{"kl": 0.0}, {"kl": 0.1, "whole_stay": True}])
def test_settings_that_would_let_the_words_drift_are_refused(wrong):
    with pytest.raises(ConfigError, match="all_doses needs"):
        CurriculumConfig(rl=ReinforcementConfig(all_doses=True, **wrong))


def test_a_bound_that_makes_all_decisions_equal_is_refused():
    with pytest.raises(ConfigError, match="bound must be above 0"):
        CurriculumConfig(rl=ReinforcementConfig(bound=0.0))


def test_the_pinned_trl_takes_only_what_is_learned_through_the_vocabulary(tokenizer, monkeypatch):
    """Private to TRL; were it named otherwise there, training would be slower and not say so."""
    from trl.trainer import utils

    seen = []
    apply = utils._ChunkedLogProbFunction.apply

    def remember(hidden, *rest):
        seen.append(len(hidden))
        return apply(hidden, *rest)

    _score_only_what_is_learned()
    monkeypatch.setattr(utils._ChunkedLogProbFunction, "apply", remember)
    network = make_model(tokenizer)
    utils.add_fused_lm_head(network)
    ids = torch.arange(40).reshape(2, 20)
    labels = torch.full_like(ids, -100)
    labels[:, -3:] = ids[:, -3:]
    told = network(input_ids=ids, labels=labels, fused_lm_head=True)
    assert seen == [6]
    logs = network(ids).logits.log_softmax(-1)[:, -4:-1].gather(2, ids[:, -3:, None])
    assert told.loss.item() == pytest.approx(-logs.mean().item(), rel=1e-4)
