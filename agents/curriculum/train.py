"""The three stages through TRL: supervised texts, then reinforcement in the world model.

Each stage starts from a model folder and writes one that ``sepsis-gym llm serve`` takes.
"""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from agents.curriculum.config import CurriculumConfig, ReinforcementConfig, SupervisedConfig
from agents.curriculum.rollout import REWARDS, TOLD, Rollouts
from agents.curriculum.texts import Dialogue
from agents.llm.dialogue import encode

_SAVED_TIMES = 10
"""Checkpoints in a stage, of which the last is kept."""
_BATCHES_SORTED = 50
_LORA_LAYERS = "all-linear"
_BRIEF = 4
"""Tokens of an answer such as yes, with its end mark and room for another tokenizer."""
_BETA2 = 0.98
"""Of Adam; the usual 0.999 remembers the first and largest gradients through a whole short run."""
_DRAWN_AND_LEARNED = 4 / 3
"""Times the work of learning a text that drawing it first makes of it."""
_NARROWEST = 48
"""Tokens before an answer in the first view of it."""
_LATE = 3
"""How late views widen: at half of the widening steps they are an eighth of the way, in powers of
the narrowest. What was read in near views alone stays; in ever wider ones it was not learned."""
Row = dict[str, list[int]]
"""``input_ids``, and ``labels``, -100 where nothing is learned."""


def require() -> None:
    """Checks that what trains is installed.

    Raises:
        ImportError: It is not; the message says how to install it.
    """
    try:
        import datasets  # noqa: F401
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f'{error.name or "trl"} is missing: pip install "sepsis-gym[train]"'
        ) from error


def load(folder: str, config: CurriculumConfig) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, as :func:`agents.llm.local.load` has them."""
    require()
    import torch

    from agents.llm.local import load as load_as

    _score_only_what_is_learned()
    half = config.dtype == "bfloat16" or (config.dtype == "auto" and torch.cuda.is_available())
    return load_as(folder, dtype="bfloat16" if half else "float32")


def _score_only_what_is_learned() -> None:
    """TRL does so where it has Triton; elsewhere it takes all of a text through the vocabulary."""
    from trl.trainer import utils

    utils._use_triton = lambda device: True  # what it decides here is no more than that


def learn_texts(
    start: str,
    dialogues: Sequence[Dialogue],
    out: Path,
    stage: SupervisedConfig,
    config: CurriculumConfig,
) -> None:
    """Trains on what the assistant says in these dialogues.

    Args:
        start: Model folder or name.
        dialogues: What to learn.
        out: Model folder to write; beside it ``.training`` keeps what a stopped run goes on from.
        stage: Settings.
        config: Of the curriculum.
    """
    network, tokenizer = load(start, config)
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    told = []
    for messages, tools in dialogues:
        ids, written = encode(tokenizer, messages, tools)
        own = [token if mine else -100 for token, mine in zip(ids, written, strict=True)]
        told.append({"input_ids": ids, "labels": own})
    rows = in_order(told, stage, config.seed)
    tokens = sum(len(row["input_ids"]) for row in rows)
    longest = max(len(row["input_ids"]) for row in told)
    _tell_cost(network, config, tokens, stage.at_once * longest)
    args = SFTConfig(
        **_arguments(out, stage, stage.batch_size, config),
        max_length=None,
        packing=False,
        train_sampling_strategy="sequential",
    )
    trainer = SFTTrainer(
        model=network,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=_adapters(config),
        data_collator=partial(_padded, padding=tokenizer.pad_token_id),
    )
    _run(trainer, start, out, config)


def _padded(rows: Sequence[Row], *, padding: int) -> dict[str, Any]:
    """A batch without an attention mask, which would cost half of the attention's speed.

    Padding stands on the right, where nothing before it sees it, and nothing is learned there.
    """
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": padding, "labels": -100}
    batch = {
        name: torch.tensor([row[name] + [with_] * (longest - len(row[name])) for row in rows])
        for name, with_ in fill.items()
    }
    return batch | {"position_ids": torch.arange(longest).repeat(len(rows), 1)}


def in_order(rows: Sequence[Row], stage: SupervisedConfig, seed: int) -> list[Row]:
    """What is learned when: those of a batch are of like length, so that they pad little.

    Those with brief answers stand apart: the loss is a mean over a batch's tokens, and among longer
    answers a yes or no would count for next to nothing.

    transformers can group by length too, but a run that goes on from a checkpoint then sees
    others than it would have.

    Args:
        rows: Tokens and labels of the dialogues.
        stage: How many batches of which size are wanted, and for how long views widen.
        seed: Of the order and of the views.

    Returns:
        steps * batch_size rows; none comes again before all others have come.
    """
    rng, wanted = np.random.default_rng(seed), stage.steps * stage.batch_size
    rounds = [rng.permutation(len(rows)) for _ in range(-(-wanted // len(rows)))]
    longest = max(len(row["input_ids"]) for row in rows)
    seen = []
    for place, at in enumerate(np.concatenate(rounds)[:wanted]):
        row, step = rows[at], place // stage.batch_size
        if step < stage.widening_steps:
            wide = (longest / _NARROWEST) ** ((step / stage.widening_steps) ** _LATE)
            row = _before_an_answer(row, round(_NARROWEST * wide), rng)
        seen.append(row)
    block = _BATCHES_SORTED * stage.batch_size
    ordered: list[Row] = []
    for first in range(0, wanted, block):
        alike = sorted(seen[first : first + block], key=_kind)
        for batch in rng.permutation(len(alike) // stage.batch_size):
            ordered += alike[batch * stage.batch_size : (batch + 1) * stage.batch_size]
    return ordered


def _kind(row: Row) -> tuple[bool, int]:
    learned = len(row["labels"]) - row["labels"].count(-100)
    return learned > _BRIEF, len(row["input_ids"])


def _before_an_answer(row: Row, wide: int, rng: np.random.Generator) -> Row:
    """One of a dialogue's answers and so many tokens before it."""
    own = np.array(row["labels"]) != -100
    answers = np.flatnonzero(np.diff(own, prepend=False, append=False)).reshape(-1, 2)
    first, end = answers[rng.integers(len(answers))]
    start = max(0, first - wide)
    labels = row["labels"][start:end]
    if start and own[start]:  # the rest of an answer tells nothing without its beginning
        cut = int(np.argmin(own[start:end]))
        labels = [-100] * cut + labels[cut:]
    return {"input_ids": row["input_ids"][start:end], "labels": labels}


def reinforce(start: str, rollouts: Rollouts, out: Path, config: CurriculumConfig) -> None:
    """Trains on decisions drawn from the model and judged in the world model.

    Args:
        start: Model folder or name.
        rollouts: Draw and judge.
        out: See :func:`learn_texts`.
        config: Of the curriculum.
    """
    network, tokenizer = load(start, config)
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from agents.curriculum.doses import DoseTrainer

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # pinned, and held by a test
    stage = config.rl
    each = rollouts.opening_tokens(tokenizer) + config.max_tokens
    drawn = stage.steps * stage.patients * stage.group
    _tell_cost(network, config, _DRAWN_AND_LEARNED * drawn * each, stage.at_once * each)
    asked = [{"prompt": text} for text in rollouts.prompts()]
    args = GRPOConfig(
        **_arguments(out, stage, stage.patients * stage.group, config),
        num_generations=stage.group,
        beta=stage.kl,
        temperature=stage.temperature,
        loss_type="dr_grpo",
        scale_rewards="batch",
        max_completion_length=config.max_tokens,
        reward_weights=[1.0] * len(REWARDS) + [0.0] * len(TOLD),
        shuffle_dataset=False,
    )
    kind = DoseTrainer if stage.all_doses else GRPOTrainer
    trainer = kind(
        model=network,
        args=args,
        train_dataset=Dataset.from_list(asked),
        processing_class=tokenizer,
        peft_config=_adapters(config),
        reward_funcs=[_column(name) for name in (*REWARDS, *TOLD)],
        rollout_func=rollouts,
    )
    _run(trainer, start, out, config)


def _column(name: str) -> Any:
    """A reward that the rollout has worked out already."""

    def reward(completions: list[Any], **columns: list[Any]) -> list[float]:
        return columns[name]

    reward.__name__ = name
    return reward


def _arguments(
    out: Path,
    stage: SupervisedConfig | ReinforcementConfig,
    batch_size: int,
    config: CurriculumConfig,
) -> dict[str, Any]:
    """What both trainers are told."""
    import torch

    os.environ["TENSORBOARD_LOGGING_DIR"] = str(out.parent / "tensorboard" / out.name)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    at_once = min(stage.at_once, batch_size // processes)
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(_workplace(out)),
        "max_steps": stage.steps,
        "learning_rate": stage.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, stage.steps // 20),
        "per_device_train_batch_size": at_once,
        "gradient_accumulation_steps": max(1, batch_size // (at_once * processes)),
        "gradient_checkpointing": config.lora_rank is not None,
        "adam_beta2": _BETA2,
        "max_grad_norm": 1.0,
        "bf16": cuda and config.dtype != "float32",
        "use_cpu": not cuda,
        "dataloader_pin_memory": cuda,
        "logging_steps": max(1, stage.steps // 50),
        "save_steps": max(1, stage.steps // _SAVED_TIMES),
        "save_total_limit": 1,
        "report_to": ["tensorboard"],
        "seed": config.seed,
    }


def _adapters(config: CurriculumConfig) -> Any:
    if config.lora_rank is None:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=2 * config.lora_rank,
        target_modules=_LORA_LAYERS,
        task_type="CAUSAL_LM",
    )


def _workplace(out: Path) -> Path:
    return out.parent / ".training" / out.name


def _run(trainer: Any, start: str, out: Path, config: CurriculumConfig) -> None:
    """Trains, from the last checkpoint if there is one, and writes the model folder."""
    from transformers.trainer_utils import get_last_checkpoint

    work = _workplace(out)
    last = get_last_checkpoint(str(work)) if work.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    whole = work / "trained"
    trainer.save_model(str(whole))  # on every process: the weights may be spread
    if trainer.is_world_process_zero():
        _finish(trainer, whole, start, out, config)
    trainer.accelerator.wait_for_everyone()


def _finish(trainer: Any, whole: Path, start: str, out: Path, config: CurriculumConfig) -> None:
    """Makes a plain model folder of what was saved."""
    if config.lora_rank is not None:
        from peft import PeftModel

        network, _ = load(start, config)
        adapted = PeftModel.from_pretrained(network, str(whole))
        shutil.rmtree(whole)
        adapted.merge_and_unload().save_pretrained(whole)
    trainer.processing_class.save_pretrained(whole)
    (whole / "training_args.bin").unlink(missing_ok=True)  # a pickle
    whole.rename(out)
    shutil.rmtree(_workplace(out))


def _tell_cost(network: Any, config: CurriculumConfig, tokens: float, at_once: float) -> None:
    """Prints what a run will take, roughly: counted, not measured, but for the device's speed."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    parameters = sum(weight.numel() for weight in network.parameters())
    bytes_each = 4 if network.dtype == torch.float32 else 2
    shape = network.config
    inner = 34 if config.lora_rank is None else 4  # bytes per token and layer kept for the gradient
    kept = at_once * shape.num_hidden_layers * shape.hidden_size * inner
    kept += 3 * 4 * at_once * shape.vocab_size
    trained = parameters * 12 if config.lora_rank is None else parameters * 0.2
    memory = parameters * bytes_each + trained + kept
    seconds = 6 * parameters * tokens / _flops(device)
    print(
        f"{parameters / 1e6:,.1f} M parameters on {device}: about {memory / 2**30:.1f} GiB and, "
        f"for the work of {tokens / 1e6:,.1f} M tokens, {seconds / 60:.0f} minutes or more",
        flush=True,
    )


def _flops(device: str) -> float:
    """Multiplications and additions a second of a product of 1024 x 1024."""
    import torch

    a = torch.randn(1024, 1024, device=device, dtype=torch.bfloat16 if device == "cuda" else None)
    best = float("inf")
    for _ in range(5):
        began = perf_counter()
        (a @ a).sum().item()
        best = min(best, perf_counter() - began)
    return 2 * 1024**3 / best
