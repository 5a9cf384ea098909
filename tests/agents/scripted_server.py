"""An OpenAI-compatible server that answers with a script, behind a transport of its own."""

import copy
import json

import httpx2 as httpx

from agents import make_agent
from agents.llm import LLMAgent, OpenAIBackend
from sepsis_gym.actions import encode_action

LOCAL = "http://127.0.0.1:9/v1"
SIMULATE = ("simulation", {"actions": [{"iv_fluid": 1, "vasopressor": 0}]})
PRESCRIBE = ("prescription", {"iv_fluid": 2, "vasopressor": 1})
CHOSEN = int(encode_action(2, 1))
FALLBACK = 24


def tool_calls(*calls):
    """An assistant message with these (name, arguments) calls; text arguments go as they are."""
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": f"call-{index}",
                "type": "function",
                "function": {
                    "name": name,
                    "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments),
                },
            }
            for index, (name, arguments) in enumerate(calls)
        ],
    }


def prose(text):
    return {"role": "assistant", "content": text}


class Server:
    """Answers with a script, the last entry for ever; an integer is an HTTP error.

    An exception is raised in place of an answer, as a broken connection would.
    """

    def __init__(self, *script):
        self.script, self.requests = list(script), []

    def __call__(self, request):
        asked = json.loads(request.content)
        self.requests.append(asked)
        answer = copy.deepcopy(self.answer(asked))
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return httpx.Response(answer, headers={"retry-after-ms": "1"}, json={"error": {}})
        choice = {"index": 0, "finish_reason": answer.pop("cut", "stop"), "message": answer}
        usage = {"prompt_tokens": 90, "completion_tokens": 10, "total_tokens": 100}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        return httpx.Response(200, json={**body, "choices": [choice], "usage": usage})

    def answer(self, asked):
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


def agent_on(server, preprocessing, **settings):
    backend = OpenAIBackend(LOCAL, "m", credentialed=False, transport=httpx.MockTransport(server))
    fallback = make_agent("fixed_dose", action=FALLBACK)
    return LLMAgent(backend, preprocessing, fallback=fallback, **settings)
