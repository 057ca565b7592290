"""Training step of our model in idiomatic PyTorch: modules, fused attention, fused AdamW.

Queries, keys and values are one matrix product, and so are the two branches of the MLP. `to_torch` and `params` convert
between these matrices and the parameter tree of `models.Transformer`.
"""

import jax
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from compressed_lm.models import TransformerConfig, relative_buckets
from compressed_lm.training import TrainConfig

ACTIVATIONS = {"relu": F.relu, "gelu": lambda x: F.gelu(x, approximate="tanh"), "silu": F.silu}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Attention(nn.Module):
    def __init__(self, c: TransformerConfig, length: int):
        super().__init__()
        self.n_heads, self.d_head = c.n_heads, c.d_head
        self.qkv = nn.Linear(c.d_model, 3 * c.n_heads * c.d_head, bias=False)
        self.out = nn.Linear(c.n_heads * c.d_head, c.d_model, bias=False)
        self.relative_bias = None
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        if c.position == "relative":
            self.relative_bias = nn.Embedding(c.n_buckets, c.n_heads)
            buckets = relative_buckets(length, n_buckets=c.n_buckets, max_distance=c.max_distance)
            distance = np.maximum(np.arange(length)[:, None] - np.arange(length), 0)
            self.register_buffer("buckets", torch.tensor(buckets[distance]))
            self.register_buffer("future", future)
        else:
            half = c.d_head // 2
            angles = torch.outer(torch.arange(length), 10_000.0 ** (-torch.arange(half) / half))
            self.register_buffer("sin", angles.sin())
            self.register_buffer("cos", angles.cos())

    def forward(self, x):
        b, length, _ = x.shape
        q, k, v = self.qkv(x).view(b, length, 3, self.n_heads, self.d_head).permute(2, 0, 3, 1, 4)  # [B, H, L, K]
        if self.relative_bias is None:
            y = F.scaled_dot_product_attention(self._rotate(q), self._rotate(k), v, is_causal=True)
        else:
            bias = self.relative_bias(self.buckets).permute(2, 0, 1).masked_fill(self.future, -1e30)  # [H, L, L]
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.out(y.transpose(1, 2).reshape(b, length, -1))

    def _rotate(self, x):
        first, second = x.chunk(2, dim=-1)
        turned = first * self.cos - second * self.sin, second * self.cos + first * self.sin
        return torch.cat(turned, dim=-1).to(x.dtype)


class MLP(nn.Module):
    def __init__(self, c: TransformerConfig):
        super().__init__()
        self.up_gate = nn.Linear(c.d_model, 2 * c.d_ff, bias=False)
        self.down = nn.Linear(c.d_ff, c.d_model, bias=False)
        self.activation = ACTIVATIONS[c.activation]

    def forward(self, x):
        up, gate = self.up_gate(x).chunk(2, dim=-1)
        return self.down(up * self.activation(gate))


class Block(nn.Module):
    def __init__(self, c: TransformerConfig, length: int):
        super().__init__()
        self.attention_norm, self.attention = nn.RMSNorm(c.d_model, eps=1e-6), Attention(c, length)
        self.mlp_norm, self.mlp = nn.RMSNorm(c.d_model, eps=1e-6), MLP(c)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Model(nn.Module):
    """Returns (loss with z-loss, loss in nats per token) for targets int64[B, L]."""

    def __init__(self, c: TransformerConfig, length: int, eod_id: int, z_loss: float):
        super().__init__()
        self.eod_id, self.z_loss = eod_id, z_loss
        self.embed = nn.Embedding(c.vocab_size, c.d_model)
        self.layers = nn.ModuleList(Block(c, length) for _ in range(c.n_layers))
        self.final_norm = nn.RMSNorm(c.d_model, eps=1e-6)
        self.unembed = nn.Linear(c.d_model, c.vocab_size, bias=False)

    def forward(self, targets):
        x = self.embed(F.pad(targets[:, :-1], (1, 0), value=self.eod_id))
        for layer in self.layers:
            x = layer(x)
        logits = self.unembed(self.final_norm(x)).float()
        log_z = logits.logsumexp(-1)
        loss = (log_z - logits.gather(-1, targets[..., None])[..., 0]).mean()
        return loss + self.z_loss * log_z.square().mean(), loss


class TorchPeer:
    """PyTorch training step for batches int32[B, L] on CPU.

    Args:
        config, model_config: as for `training.Program`; AdamW with a constant learning rate.
        eod_id: id put before each row.
        compiled: compile the model with torch.compile, which needs a C++ compiler.
    """

    def __init__(self, config: TrainConfig, model_config: TransformerConfig, eod_id: int, *, compiled: bool = False):
        self._config, self._dtype = config, DTYPES[model_config.dtype]
        self._model = Model(model_config, config.seq_len, eod_id, config.z_loss)
        self._loss = torch.compile(self._model) if compiled else self._model

    def load(self, params) -> None:
        """Resets model and optimizer to the parameter tree of `models.Transformer`."""
        parameters = dict(self._model.named_parameters())
        with torch.no_grad():
            for name, value in to_torch(jax.device_get(params)).items():
                parameters[name].copy_(torch.tensor(value))
        c = self._config
        kernels = [value for name, value in parameters.items() if name.split(".")[-2] in KERNELS]
        others = [value for name, value in parameters.items() if name.split(".")[-2] not in KERNELS]
        groups = [{"params": kernels, "weight_decay": c.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=c.learning_rate, betas=(c.b1, c.b2), eps=1e-8, fused=True)

    def step(self, targets) -> tuple[float, float]:
        """Makes one update on targets int32[B, L]; returns (loss in nats per token, gradient norm)."""
        parts, loss = self._config.micro_batches, 0.0
        for rows in torch.from_numpy(np.asarray(targets, np.int64)).chunk(parts):
            with torch.autocast("cpu", torch.bfloat16, enabled=self._dtype == torch.bfloat16):
                total, part = self._loss(rows)
            (total / parts).backward()
            loss += part.item() / parts
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._config.grad_clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss, norm.item()

    def params(self) -> dict[str, np.ndarray]:
        """Returns the parameters by name, like `to_torch`."""
        return {name: value.detach().numpy() for name, value in self._model.named_parameters()}


KERNELS = ("qkv", "out", "up_gate", "down", "unembed")


def to_torch(params) -> dict[str, np.ndarray]:
    """Returns the parameters of `Model` by name from a tree of `models.Transformer`, with transposed matrices."""
    named = {
        "embed.weight": params["embed"]["embedding"],
        "final_norm.weight": params["final_norm"]["scale"],
        "unembed.weight": params["unembed"]["kernel"].T,
    }
    for i in range(len(params["layers"]["mlp_norm"]["scale"])):
        layer = jax.tree.map(lambda stacked, i=i: stacked[i], params["layers"])
        attention, mlp = layer["attention"], layer["mlp"]
        parts = {
            "attention_norm": layer["attention_norm"]["scale"],
            "mlp_norm": layer["mlp_norm"]["scale"],
            "attention.qkv": np.concatenate([attention[name]["kernel"].T for name in "qkv"]),
            "attention.out": attention["out"]["kernel"].T,
            "mlp.up_gate": np.concatenate([mlp[name]["kernel"].T for name in ("up", "gate")]),
            "mlp.down": mlp["down"]["kernel"].T,
        }
        if "relative_bias" in attention:
            parts["attention.relative_bias"] = attention["relative_bias"]["embedding"]
        named |= {f"layers.{i}.{name}.weight": value for name, value in parts.items()}
    return named
