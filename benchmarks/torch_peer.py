"""The course's GPT and its loops in plain PyTorch, reimplemented from their behaviour, for the benchmark.

Modules have the course's names, so that its `.params` files load. The three dropouts, the AdamW groups and
the greedy loop are the same, too: it answers one question at a time, and rereads the whole text for every
character.

Axes: `B` batch, `T` query position, `S` key position, `C` channels, `H` heads, `K` head size, `V` vocabulary,
`N` new characters, `1` size one.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from kgpt_jax.config import ModelConfig, TrainConfig
from kgpt_jax.data.vocab import MASK_ID, PAD_ID


class Attention(nn.Module):
    """The course's causal attention, with explicit scores and weights or, if `fused`, PyTorch's kernel."""

    def __init__(self, cfg: ModelConfig, fused: bool):
        super().__init__()
        self.key, self.query, self.value, self.proj = (nn.Linear(cfg.n_embd, cfg.n_embd) for _ in range(4))
        self.attn_drop, self.resid_drop = nn.Dropout(cfg.dropout), nn.Dropout(cfg.dropout)
        ones_SS = torch.ones(cfg.block_size, cfg.block_size)
        self.register_buffer("mask", torch.tril(ones_SS)[None, None])
        self.n_head, self.fused = cfg.n_head, fused

    def forward(self, x_BTC):
        B, T, C = x_BTC.shape
        q_BHTK, k_BHSK, v_BHSK = (
            layer(x_BTC).view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        if self.fused:
            rate = self.attn_drop.p if self.training else 0.0
            y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHSK, v_BHSK, dropout_p=rate, is_causal=True)
        else:
            att_BHTS = q_BHTK @ k_BHSK.transpose(-2, -1) / math.sqrt(C // self.n_head)
            y_BHTK = self.read(att_BHTS, v_BHSK)
        return self.resid_drop(self.proj(y_BHTK.transpose(1, 2).reshape(B, T, C)))

    def read(self, att_BHTS, v_BHSK):
        T = att_BHTS.shape[2]
        att_BHTS = att_BHTS.masked_fill(self.mask[:, :, :T, :T] == 0, -1e10)
        return self.attn_drop(F.softmax(att_BHTS, dim=-1)) @ v_BHSK


class Synthesizer(Attention):
    """The course's dense synthesizer."""

    def __init__(self, cfg: ModelConfig, fused: bool):
        super().__init__(cfg, fused)
        del self.key, self.query
        self.w1 = nn.Linear(cfg.n_embd, cfg.n_embd)
        self.w2 = nn.Parameter(torch.zeros(cfg.head_dim, cfg.seq_len).uniform_(-1e-3, 1e-3))
        self.b2 = nn.Parameter(torch.zeros(cfg.seq_len))

    def forward(self, x_BTC):
        B, T, C = x_BTC.shape
        h_BHTK, v_BHSK = (
            layer(x_BTC).view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            for layer in (self.w1, self.value)
        )
        att_BHTS = (F.relu(h_BHTK) @ self.w2 + self.b2)[..., :T]
        y_BHTK = self.read(att_BHTS, v_BHSK)
        return self.resid_drop(self.proj(y_BHTK.transpose(1, 2).reshape(B, T, C)))


ATTENTIONS = {"vanilla": Attention, "synthesizer": Synthesizer}


class Block(nn.Module):
    def __init__(self, cfg: ModelConfig, fused: bool):
        super().__init__()
        C = cfg.n_embd
        self.ln1, self.ln2 = nn.LayerNorm(C), nn.LayerNorm(C)
        self.attn = ATTENTIONS[cfg.variant](cfg, fused)
        self.mlp = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C), nn.Dropout(cfg.dropout))

    def forward(self, x_BTC):
        x_BTC = x_BTC + self.attn(self.ln1(x_BTC))
        return x_BTC + self.mlp(self.ln2(x_BTC))


class PeerGPT(nn.Module):
    """Maps ids (B, T) to logits (B, T, V) or, given targets, to the mean loss over those that are not PAD."""

    def __init__(self, cfg: ModelConfig, fused: bool = False):
        super().__init__()
        self.tok_emb = nn.Embedding(cfg.vocab_size, cfg.n_embd)
        self.pos_emb = nn.Parameter(torch.zeros(1, cfg.block_size, cfg.n_embd))
        self.drop = nn.Dropout(cfg.dropout)
        self.blocks = nn.Sequential(*(Block(cfg, fused) for _ in range(cfg.n_layer)))
        self.ln_f = nn.LayerNorm(cfg.n_embd)
        self.head = nn.Linear(cfg.n_embd, cfg.vocab_size, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x_BT, y_BT=None):
        h_BTC = self.drop(self.tok_emb(x_BT) + self.pos_emb[:, : x_BT.shape[1]])
        logits_BTV = self.head(self.ln_f(self.blocks(h_BTC)))
        if y_BT is None:
            return logits_BTV
        return F.cross_entropy(logits_BTV.flatten(0, 1), y_BT.flatten(), ignore_index=PAD_ID)


def make_optimizer(model: PeerGPT, cfg: TrainConfig) -> torch.optim.Optimizer:
    """Returns AdamW with the course's two groups: weights decay, biases do not."""
    named = list(model.named_parameters())
    groups = [
        {"params": [p for name, p in named if "bias" not in name], "weight_decay": cfg.weight_decay},
        {"params": [p for name, p in named if "bias" in name], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=cfg.learning_rate, betas=(cfg.beta1, cfg.beta2))


def train_step(model, optimizer, clip_norm: float, x_BT, y_BT, autocast: bool) -> torch.Tensor:
    """Makes one update as the course's trainer does and returns the loss; `autocast` means bfloat16."""
    with torch.autocast(x_BT.device.type, torch.bfloat16, enabled=autocast):
        loss = model(x_BT, y_BT)
    model.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss


@torch.no_grad()
def answer(model: PeerGPT, prompt_T: torch.Tensor, max_new: int, seq_len: int) -> list[int]:
    """Returns the greedy continuation of one prompt up to the first MASK, as the course's `sample` does.

    Like the course, it always generates `max_new` characters and rereads the whole text for each of them.

    Args:
      model: the model, in any mode; it is left in evaluation mode.
      prompt_T: ids of the prompt.
      max_new: characters to generate.
      seq_len: the most characters that the model reads.
    """
    model.eval()
    text_T = prompt_T
    for _ in range(max_new):
        logits_1TV = model(text_T[None, -seq_len:])
        text_T = torch.cat([text_T, logits_1TV[0, -1].argmax()[None]])
    new_N = text_T[len(prompt_T) :].tolist()
    return new_N[: new_N.index(MASK_ID)] if MASK_ID in new_N else new_N
