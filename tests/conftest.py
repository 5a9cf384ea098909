"""Small stand-ins shared by all tests: logged stays and dynamics with a known effect."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from sepsis_gym.cohort.assemble import AssemblyConfig, RawCohort, assemble
from sepsis_gym.dynamics import End, Simulation, Transition
from sepsis_gym.features import FEATURE_INDEX, HIGH, LOW, N_FEATURES, TYPICAL
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories


def make_raw_cohort(n_stays: int = 60, seed: int = 0) -> RawCohort:
    """Random stays: half the entries measured, two stays to a patient."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 20, n_stays)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows = offsets[-1]
    noisy = np.clip(TYPICAL * (1 + 0.1 * rng.standard_normal((rows, N_FEATURES))), LOW, HIGH)
    raw = np.where(rng.random((rows, N_FEATURES)) < 0.5, noisy, np.nan).astype(np.float32)
    fluid = np.where(rng.random(rows) < 0.7, rng.gamma(1, 300, rows), 0)
    vasopressor = np.where(rng.random(rows) < 0.3, rng.gamma(1, 0.2, rows), 0)
    died_in_hospital = rng.random(n_stays) < 0.2
    return RawCohort(
        stays={
            "stay_id": np.arange(1, n_stays + 1),
            "subject_id": 100 + np.arange(n_stays) // 2,
            "age": rng.uniform(20, 90, n_stays).astype(np.float32),
            "male": rng.random(n_stays) < 0.5,
            "charlson": rng.integers(0, 9, n_stays).astype(np.float32),
            "died_in_hospital": died_in_hospital,
            "died_90d": died_in_hospital | (rng.random(n_stays) < 0.1),
            "end": np.where(lengths == 19, End.HORIZON, End.DISCHARGED).astype(np.int8),
        },
        offsets=offsets.astype(np.int64),
        raw=raw,
        ventilated=rng.random(rows) < 0.3,
        fluid_ml=fluid.astype(np.float32),
        norepinephrine_equivalent=vasopressor.astype(np.float32),
        sofa_24h=np.full(rows, np.nan, np.float32),
    )


@pytest.fixture(scope="session")
def raw_cohort() -> RawCohort:
    return make_raw_cohort()


@pytest.fixture(scope="session")
def trajectories(raw_cohort: RawCohort) -> Trajectories:
    return assemble(raw_cohort, AssemblyConfig(), source="random test stays", credentialed=False)


class ToyModel:
    """Dynamics with a known effect: 0.1 ug/kg/min of vasopressor adds 10 mmHg; else noise."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    def start(self, n: int, rng: np.random.Generator) -> Patients:
        raw = np.clip(TYPICAL + 0.05 * TYPICAL * rng.standard_normal((n, N_FEATURES)), LOW, HIGH)
        values, age = self.preprocessing.first(raw.astype(np.float32))
        zeros = np.zeros(n, np.float32)
        static = np.tile(np.array([65, 1, 5], np.float32), (n, 1))
        step = np.zeros(n, np.int64)
        memory = np.zeros((n, 1), np.float32)
        return Patients(values, age, zeros > 1, static, zeros, zeros, step, memory)

    def step(self, patients, fluid_ml, norepinephrine_equivalent, rng) -> Transition:
        n = len(patients)
        noise = rng.standard_normal((n, N_FEATURES)).astype(np.float32)
        raw = np.clip(patients.values + 0.01 * TYPICAL * noise, LOW, HIGH)
        raw[:, FEATURE_INDEX["meanbp"]] += 100 * norepinephrine_equivalent
        raw[rng.random((n, N_FEATURES)) < 0.5] = np.nan
        values, age = self.preprocessing.carry_forward(patients.values, patients.age, raw)
        end = np.where(rng.random(n) < 0.05, End.DISCHARGED, End.ONGOING)
        end = np.where(rng.random(n) < 0.02, End.DIED, end).astype(np.int8)
        moved = replace(
            patients,
            values=np.clip(values, LOW, HIGH),
            age=age,
            previous_fluid_ml=fluid_ml,
            previous_norepinephrine_equivalent=norepinephrine_equivalent,
            step=patients.step + 1,
            memory=patients.memory + 1 if patients.memory.size else np.ones((n, 1), np.float32),
        )
        constant = np.full(n, 0.2, np.float32)
        return Transition(moved, end, constant, constant / 2)

    def simulate(self, patients, fluid_ml, norepinephrine_equivalent) -> Simulation:
        k = len(fluid_ml)
        values = np.repeat(patients.values, k, axis=0)
        values[:, FEATURE_INDEX["meanbp"]] += 100 * norepinephrine_equivalent
        constant = np.full(k, 0.1, np.float32)
        return Simulation(
            fluid_ml=fluid_ml,
            norepinephrine_equivalent=norepinephrine_equivalent,
            values=values,
            spread=np.stack([values * 0.9, values * 1.1], axis=1),
            ventilated=constant,
            sofa=np.full(k, 4, np.int8),
            died=constant,
            discharged=constant,
            mortality_90d=constant,
            epistemic=constant,
        )

    def follow(self, patients: Patients, following: Patients) -> Patients:
        before = patients.memory if patients.memory.size else np.zeros((len(patients), 1))
        return replace(following, memory=(before + 1).astype(np.float32))


@pytest.fixture
def toy_model(trajectories: Trajectories) -> ToyModel:
    return ToyModel(trajectories.preprocessing)


@pytest.fixture(scope="session")
def mimic_demo() -> Path:
    folder = os.environ.get("SEPSIS_GYM_MIMIC_DEMO")
    if not folder:
        pytest.skip("SEPSIS_GYM_MIMIC_DEMO is not set: no MIMIC-IV demo to test on")
    return Path(folder)


class Prescriber(BaseHTTPRequestHandler):
    """A server that always prescribes low fluid; without tools it says yes."""

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        function = {"name": "prescription", "arguments": json.dumps(self.prescribe(asked))}
        call = {"id": "1", "type": "function", "function": function}
        message = {"role": "assistant", "content": "Yes."}
        if "tools" in asked:
            message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        answer = json.dumps({**body, "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def prescribe(self, asked):
        return {"iv_fluid": 1, "vasopressor": 0}

    def log_message(self, *args):
        """Keeps quiet."""


@pytest.fixture
def prescribing_server() -> Iterator[str]:
    """Base URL of an OpenAI-compatible server on this machine that always prescribes low fluid."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Prescriber)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
