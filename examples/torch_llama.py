"""Trains a small Llama of transformers in PyTorch on the tokens of a codec, on two cores within two minutes.

    compressed-lm compress --codec pieces16-en --max_bytes 4000000 --out work/train
    compressed-lm compress --codec pieces16-en --max_bytes 200000 --split validation --out work/validation
    python examples/torch_llama.py work/train work/validation --out work/llama

It prints loss and bits per byte before and after, and writes a folder for AutoModelForCausalLM and, after `import
compressed_lm.integrations.transformers`, AutoTokenizer. Needs torch and transformers.
"""

import argparse
import math
import time

import torch
import transformers
from torch.utils.data import DataLoader

from compressed_lm import codecs
from compressed_lm.integrations.torch import TokenStoreDataset, TokenStoreIterable
from compressed_lm.integrations.transformers import CompressedTokenizer


@torch.no_grad()
def evaluate(model: torch.nn.Module, rows: TokenStoreDataset, *, batch_size: int, n_rows: int) -> tuple[float, float]:
    """Returns the loss (nats per token) on the first rows of a store, and bits per byte of text.

    A row's first token is not predicted, so the loss is the mean of the others. Ends of documents count as tokens.
    """
    model.eval()
    some = torch.utils.data.Subset(rows, range(min(n_rows, len(rows))))
    losses = [model(**batch).loss.item() for batch in DataLoader(some, batch_size=batch_size, drop_last=True)]
    store, loss = rows.store, sum(losses) / len(losses)
    model.train()
    return loss, loss / math.log(2) * (store.n_tokens + store.n_documents) / store.n_bytes


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """Trains, and returns loss and bits per byte before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", help="token store to train on")
    parser.add_argument("validation", help="token store of other documents, made by the same codec")
    parser.add_argument("--codec", default="pieces16-en", help="codec of the stores (default %(default)s)")
    parser.add_argument("--steps", type=int, default=100, help="updates (default %(default)s)")
    parser.add_argument("--batch_size", type=int, default=4, help="rows of a step (default %(default)s)")
    parser.add_argument("--seq_len", type=int, default=64, help="tokens of a row (default %(default)s)")
    parser.add_argument("--width", type=int, default=64, help="width of the model (default %(default)s)")
    parser.add_argument("--out", help="folder for the model and the tokenizer")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    codec = codecs.Bytes() if options.codec == "bytes" else codecs.load(options.codec)
    tokenizer = CompressedTokenizer(codec)
    validation = TokenStoreDataset(options.validation, options.seq_len, codec=codec)
    stream = TokenStoreIterable(options.store, options.seq_len, epochs=None, codec=codec)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=-(-len(tokenizer) // 8) * 8,
            hidden_size=options.width,
            intermediate_size=3 * options.width,
            num_hidden_layers=2,
            num_attention_heads=options.width // 32,
            max_position_embeddings=options.seq_len,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=options.steps + 1, pct_start=0.1)
    results = {}

    def show(name: str) -> None:
        results[name] = evaluate(model, validation, batch_size=options.batch_size, n_rows=16 * options.batch_size)
        print(f"{name}: loss {results[name][0]:.3f} nats per token, {results[name][1]:.3f} bits per byte", flush=True)

    show("before")
    began = time.monotonic()
    for step, batch in zip(range(options.steps), DataLoader(stream, batch_size=options.batch_size), strict=False):
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - began:.0f} s", flush=True)
    show("after")
    if options.out:
        model.save_pretrained(options.out)
        tokenizer.save_pretrained(options.out)
    return results


if __name__ == "__main__":
    main()
