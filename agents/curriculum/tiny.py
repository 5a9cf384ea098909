"""``tiny``: a Qwen3 from scratch, which shows that the curriculum runs, not what it can teach.

About a million parameters, and a tokenizer that learned whole phrases of our own prompts.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TEMPLATE = """\
{%- set reminder = namespace(text="Answer") -%}
{%- for tool in tools or [] -%}
{%- set reminder.text = reminder.text ~ " " ~ tool.function.name -%}
{%- endfor -%}
{%- if messages[0].role == 'system' -%}
<|im_start|>system
{{ messages[0].content }}
{% if tools %}
# Tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor -%}
Reply with <tool_call>
{"name": ..., "arguments": ...}
</tool_call>
{%- endif -%}
<|im_end|>
{% endif -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}
<|im_start|>user
{{ message.content }}
{{ reminder.text }}<|im_end|>
{% elif message.role == 'tool' -%}
<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response>
{{ reminder.text }}<|im_end|>
{% elif message.role == 'assistant' -%}
<|im_start|>assistant
{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
{{ '\\n' if message.content or not loop.first else '' }}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""
_MARKS = ("<|im_start|>", "<|im_end|>")
_TAGS = ("<tool_call>", "</tool_call>")
_LEARNED_FROM = 2500


def write_tiny(folder: Path, texts: Iterable[str], *, seed: int = 0) -> None:
    """Writes an untrained model and its tokenizer.

    Args:
        folder: Where to.
        texts: Rendered dialogues of the kind it is going to read (see :func:`plain_tokenizer`).
        seed: Of the weights.
    """
    import torch

    torch.manual_seed(seed)
    tokenizer = make_tokenizer(list(texts)[:_LEARNED_FROM])
    make_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def plain_tokenizer() -> Any:
    """Renders dialogues before there is a tokenizer."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    empty = Tokenizer(models.BPE())
    return PreTrainedTokenizerFast(
        tokenizer_object=empty, eos_token="<|im_end|>", chat_template=TEMPLATE
    )


def make_tokenizer(texts: list[str]) -> Any:
    """Byte-level BPE over lines, not words: whole phrases become a token, and so do three digits.

    A number that is one token is compared with others far sooner than one spelt out.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", "isolated"),
            pre_tokenizers.Split(Regex(r"\d{1,3}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", *_MARKS],
        show_progress=False,
    )
    split = re.compile("|".join(map(re.escape, (*_TAGS, *_MARKS))))
    tokenizer.train_from_iterator([part for text in texts for part in split.split(text)], trainer)
    # plain text to the decoder, so not special
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in _TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=TEMPLATE,
    )


def make_model(tokenizer: Any) -> Any:
    """Three small layers, not yet trained."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=320,
        num_hidden_layers=3,
        num_attention_heads=5,
        num_key_value_heads=5,
        head_dim=32,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)
