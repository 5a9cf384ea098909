"""Trains a world model from trajectories."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sepsis_gym import __version__
from sepsis_gym.errors import ConfigError
from sepsis_gym.files import check_target, whole_folder
from sepsis_gym.trajectories import Trajectories
from world_models.checkpoint import FORMAT_VERSION, load_world_model, save_world_model
from world_models.config import TrainConfig
from world_models.effects import Effects, prior_effects
from world_models.forecast import in_scales_of
from world_models.model import ClinicalWorldModel
from world_models.noise import fit_noise
from world_models.physiology.effects import true_effects
from world_models.start_states import StartStates

try:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
    from torch import Tensor

    from world_models.calibration import calibrate
    from world_models.losses import sequence_loss
    from world_models.network import EnsembleNetwork
    from world_models.sequences import Sequences
    from world_models.straight import fit_straight
except ImportError as error:
    raise ImportError('torch is missing: pip install "sepsis-gym[torch]"') from error

_LARGEST_GRADIENT = 1.0
_STATE_FILE = "state.safetensors"


def train_world_model(
    trajectories: Trajectories, out: str | os.PathLike[str], config: TrainConfig | None = None
) -> ClinicalWorldModel:
    """Trains an ensemble on the training split and stops by the validation split.

    The members differ in their first weights and in how much each stay counts for them (a Bayesian
    bootstrap). After every epoch the state of the training is kept beside ``out``; a run with the
    same data and settings goes on from it.

    Args:
        trajectories: A whole cohort, causally aligned.
        out: Checkpoint folder.
        config: Size and training.

    Raises:
        ConfigError: The cohort pairs states and actions of one bin; dynamics learned from it would
            see the action's effect before the action. Or true effects are asked for of a cohort
            that is not synthetic.
        UnknownNameError: The training or validation split is empty.
    """
    config = config or TrainConfig()
    if trajectories.preprocessing.alignment != "causal":
        raise ConfigError("a world model needs a cohort of causal alignment, not same_window")
    earlier = None
    if config.init is not None:
        earlier = load_world_model(config.init)
        config = replace(config, members=earlier.members, hidden=earlier.hidden)
        trajectories = in_scales_of(trajectories, earlier.preprocessing)
    train, validation = trajectories.split("train"), trajectories.split("validation")
    run = _Run(*_laid_out(trajectories, config), config, earlier)
    target = check_target(out)
    state = target.parent / f".{target.name}-training"
    run.resume(state, trajectories.content_hash)
    with tqdm(total=config.epochs, initial=run.epoch, desc="world model", disable=None) as bar:
        while run.epoch < config.epochs and run.epoch - run.best_epoch <= config.patience:
            run.train_epoch()
            bar.set_postfix(validation=f"{run.best_loss:.3f}", best=run.best_epoch)
            bar.update()
            run.keep(state, trajectories.content_hash)
    weights = {name: tensor.cpu().numpy() for name, tensor in run.best.items()}
    starts = StartStates.fit(train)
    model = ClinicalWorldModel(trajectories.preprocessing, weights, starts)
    noise = fit_noise(model, validation)
    model = ClinicalWorldModel(trajectories.preprocessing, weights, starts, noise)
    save_world_model(model, target, _provenance(trajectories, run))
    shutil.rmtree(state, ignore_errors=True)
    return model


def _laid_out(trajectories: Trajectories, config: TrainConfig) -> tuple[Sequences, Sequences]:
    """The training and the validation stays, of whom the truth is asked at once."""
    seen = trajectories.select(np.isin(trajectories.stays.split, ("train", "validation")))
    whole = Sequences.of(seen, config.device, _effects(seen, config))
    train, validation = (
        torch.from_numpy(np.flatnonzero(seen.stays.split == name)).to(config.device)
        for name in ("train", "validation")
    )
    # the longest first: see ``sequence_loss``
    validation = validation[whole.mask[validation].sum(1).argsort(descending=True, stable=True)]
    return whole.take(train), whole.take(validation)


def _effects(log: Trajectories, config: TrainConfig) -> Effects | None:
    """What training is told of effects at the decisions of these stays."""
    if config.effects == "truth":
        return true_effects(log, config.seed)
    if config.effects == "prior":
        return prior_effects(log, config.seed)
    return None


def _provenance(trajectories: Trajectories, run: "_Run") -> dict[str, Any]:
    return {
        "cohort": trajectories.manifest.source,
        "credentialed": trajectories.manifest.credentialed,
        "content_hash": trajectories.content_hash,
        "n_stays": len(run.train),
        "config": asdict(run.config),
        "best_epoch": run.best_epoch,
        "validation_loss": round(run.best_loss, 6),
        "sepsis_gym": __version__,
    }


class _Run:
    """A training under way."""

    def __init__(
        self,
        train: Sequences,
        validation: Sequences,
        config: TrainConfig,
        earlier: ClinicalWorldModel | None = None,
    ) -> None:
        self.config = config
        self.effect_share = 0.0 if config.effects == "log" else config.effect_share
        self.generator = torch.Generator().manual_seed(config.seed)
        self.network = EnsembleNetwork(config.members, config.hidden, self.generator)
        self.network.to(config.device)
        self.train, self.validation = train, validation
        self.length = train.mask.sum(1).cpu()
        weight = torch.empty(config.members, len(self.train))
        self.stay_weight = weight.exponential_(generator=self.generator).to(config.device)
        if config.members == 1:
            self.stay_weight = torch.ones_like(self.stay_weight)
        if earlier is None:
            weights, intercepts = fit_straight(self.train, self.stay_weight)
            with torch.no_grad():
                self.network.direct_weight.add_(weights)
                self.network.output_bias.add_(intercepts)
        else:
            before = {name: torch.from_numpy(w) for name, w in earlier.weights.items()}
            self.network.load_state_dict(before)
            calibrate(self.network, self.train)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.epoch, self.best_epoch = 0, 0
        self.best, self.best_loss = self._copy(), self.validation_loss()

    def train_epoch(self) -> None:
        """One pass over the training split, then the validation loss."""
        config = self.config
        # each epoch has a stream of its own, so that a resumed run draws what it would have drawn
        generator = torch.Generator().manual_seed(config.seed * 100_003 + self.epoch)
        done = self.epoch / config.epochs
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        order = torch.randperm(len(self.train), generator=generator)
        for index in order.split(config.batch_size):  # type: ignore[no-untyped-call]
            index = index[self.length[index].argsort(descending=True, stable=True)]
            batch = self.train.take(index.to(config.device))
            switch = _switch_steps(batch, config.open_loop_share, generator)
            simulated = None
            if config.simulated_share:
                simulated = torch.rand(len(index), generator=generator) < config.simulated_share
                simulated = simulated.to(config.device)
            kept = self._dropout(len(index), generator)
            drawn = torch.rand(batch.mask.shape[1], generator=generator)
            asked = (drawn < self.effect_share).nonzero().flatten().tolist()
            loss = self._loss(
                batch, self.stay_weight[:, index], switch, kept, asked, simulated
            ).sum()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
            self.optimizer.step()
        self.epoch += 1
        loss_now = self.validation_loss()
        if loss_now < self.best_loss:
            self.best_loss, self.best_epoch, self.best = loss_now, self.epoch, self._copy()

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Mean over members of the loss with all logged states, and with the first alone."""
        n = len(self.validation)
        weight = torch.ones(self.config.members, n, device=self.config.device)
        never = self.validation.mask.shape[1]
        everyone = torch.ones(n, dtype=torch.bool, device=self.config.device)
        ways: list[tuple[int, Tensor | None]] = [(never, None), (1, None)]
        if self.config.simulated_share:
            ways.append((1, everyone))
        losses = [
            self._loss(
                self.validation,
                weight,
                torch.full((n,), at, device=self.config.device),
                asked=range(0, never, 3) if at == never and self.effect_share else (),
                simulated=simulated,
            )
            for at, simulated in ways
        ]
        return float(torch.stack(losses).mean())

    def keep(self, folder: Path, data: str) -> None:
        """Writes the state of the training."""
        tensors = {f"network.{k}": v.contiguous() for k, v in self.network.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in moments.items()}
        progress = {"of": self._fingerprint(data), "epoch": self.epoch}
        progress |= {"best_epoch": self.best_epoch, "best_loss": self.best_loss}
        with whole_folder(folder) as temporary:  # one file, so that no kill can mix two epochs
            file = temporary / _STATE_FILE
            save_file(tensors, file, {"progress": json.dumps(progress)})

    def resume(self, folder: Path, data: str) -> None:
        """Goes on from a kept state of the same run, if there is one."""
        try:
            with safe_open(folder / _STATE_FILE, "pt", device=self.config.device) as file:
                progress = json.loads(file.metadata()["progress"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, LookupError, TypeError, SafetensorError):
            return  # there is none, or it is damaged: begin anew
        if progress["of"] != self._fingerprint(data):
            return
        self.epoch, self.best_epoch = progress["epoch"], progress["best_epoch"]
        self.best_loss = progress["best_loss"]
        self.network.load_state_dict(_under("network.", tensors))
        self.best = _under("best.", tensors)
        state = self.optimizer.state_dict()
        for name, tensor in _under("optimizer.", tensors).items():
            index, key = name.split(".")
            state["state"].setdefault(int(index), {})[key] = tensor
        self.optimizer.load_state_dict(state)

    def _dropout(self, n: int, generator: torch.Generator) -> Tensor:
        config = self.config
        drawn = torch.rand(2, config.members, n, config.hidden, generator=generator)
        return ((drawn >= config.dropout) / (1 - config.dropout)).to(config.device)

    def _loss(
        self,
        batch: Sequences,
        weight: Tensor,
        switch: Tensor,
        kept: Tensor | None = None,
        asked: Sequence[int] = (),
        simulated: Tensor | None = None,
    ) -> Tensor:
        device = torch.device(self.config.device).type
        with torch.autocast(device, torch.bfloat16, enabled=self.config.bfloat16):
            return sequence_loss(
                self.network,
                batch,
                weight,
                switch,
                kept,
                simulated=simulated,
                level_weight=self.config.level_weight,
                effect_weight=self.config.effect_weight,
                asked=asked,
            )

    def _copy(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    def _fingerprint(self, data: str) -> str:
        settings = json.dumps([FORMAT_VERSION, asdict(self.config), data], sort_keys=True)
        return hashlib.sha256(settings.encode()).hexdigest()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _switch_steps(batch: Sequences, share: float, generator: torch.Generator) -> Tensor:
    """[B] step from which each stay is open loop: the second for half of them, never for others."""
    n, steps = batch.mask.shape
    at = torch.randint(1, max(steps, 2), (n,), generator=generator)
    at = torch.where(torch.rand(n, generator=generator) < 0.5, 1, at)
    never = torch.rand(n, generator=generator) >= share
    return torch.where(never, steps, at).to(batch.mask.device)
