"""Make a tiny chat model with random weights and its tokenizer, with no hub.

It is a bigram model in the shape of a Llama: an answer is some 60 words on
average, at least one, and ends by itself (finish_reason `stop`). A
conversation that contains `[slow]` gets an answer that never ends by itself:
it runs until the server's limit, or until the client goes.

usage: python make_tiny.py OUT
Needs torch, transformers and tokenizers, which are in vLLM's venv.
"""

import argparse
import json
import math
import os

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB = 512
CONTEXT = 32768  # what --max-model-len may go up to
MEAN = 60  # words of an answer
SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>", "<|quick|>", "<|slow|>"]
CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "user assistant system message hello world",
    "a model server answers requests and streams tokens back to the client",
]
# The last token of the prompt decides which words follow.
TEMPLATE = (
    "{% set ns = namespace(last='<|quick|>') %}"
    "{% for m in messages %}"
    "{% if '[slow]' in m['content'] %}{% set ns.last = '<|slow|>' %}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{{ ns.last }}{% endif %}"
)


def make_tokenizer(out: str) -> Tokenizer:
    """Train a byte-level BPE and fill it up to VOCAB, so that every id decodes to text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 50, trainer)
    tokenizer.add_tokens([f" w{i}" for i in range(VOCAB - tokenizer.get_vocab_size())])
    tokenizer.save(os.path.join(out, "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
        "additional_special_tokens": SPECIAL[3:],
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    with open(os.path.join(out, "tokenizer_config.json"), "w", encoding="utf-8") as file:
        json.dump(config, file, indent=1)
    return tokenizer


def is_word(tokenizer: Tokenizer, token: int) -> bool:
    """Tell whether a token is a word with the space before it, and nothing else."""
    text = tokenizer.decode([token], skip_special_tokens=True)
    return len(text) > 2 and text[0] == " " and text[1:].isascii() and text[1:].isalnum()


def set_rules(model: LlamaForCausalLM, tokenizer: Tokenizer) -> None:
    """Write the rules into three dimensions of the embeddings and of the output weights.

    The layers compute but add nothing, so after the last norm these dimensions
    are what the last token's embedding says, times about 8: 0 is always on; 1 is positive after a quick word and negative after a slow
    one; 2 is on after the prompt's last token only.
    """
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    embed = model.model.embed_tokens.weight
    out = model.lm_head.weight
    words = [token for token in range(VOCAB) if is_word(tokenizer, token)]
    quick, slow = words[::2], words[1::2]
    start_quick, start_slow = (tokenizer.token_to_id(f"<|{name}|>") for name in ("quick", "slow"))
    eos = tokenizer.token_to_id("<|eos|>")
    embed[:, :3] = 0.0
    out[:, :3] = 0.0
    embed[:, 0] = 1.0
    embed[[*quick, start_quick], 1] = 1.0
    embed[[*slow, start_slow], 1] = -1.0
    embed[[start_quick, start_slow], 2] = 1.0
    out[[t for t in range(VOCAB) if t not in {*words, eos}], 0] = -5.0  # only words, and the end
    out[quick, 1] = 2.0
    out[slow, 1] = -2.0
    out[eos, 1] = 2.0 + math.log(len(quick) / MEAN) / 8  # among quick words, one time in MEAN
    out[eos, 2] = -5.0  # never the first


def make_model(out: str, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """Make the weights: random, but for the rules."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.token_to_id("<|bos|>"),
        eos_token_id=tokenizer.token_to_id("<|eos|>"),
        pad_token_id=tokenizer.token_to_id("<|pad|>"),
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        set_rules(model, tokenizer)
    model = model.to(torch.bfloat16)
    model.save_pretrained(out, safe_serialization=True)
    return model


def main() -> None:
    """Make tokenizer and model in the folder that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    out = parser.parse_args().out
    os.makedirs(out, exist_ok=True)
    model = make_model(out, make_tokenizer(out))
    print("parameters", sum(p.numel() for p in model.parameters()), "->", out)


if __name__ == "__main__":
    main()
