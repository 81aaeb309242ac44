"""Attention and GELU of diffusers' transformers in fewer passes over memory, which is most of a step at this size.

Decision: diffusers' blocks stay as they are, and three of their parts are replaced by others that compute the same up to
rounding: rotary embedding is one complex multiplication instead of two strided writes; GELU comes from a sigmoid, in
place, with its derivative in closed form; and cross-attention to a single token, whose softmax is 1 for any query, is
that token's value, so the query's norm is left out (`make bench` compares). Of CogVideoX's blocks only the attention is
replaced.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel


def use_fused_attention(transformer: WanTransformer3DModel) -> WanTransformer3DModel:
    """Replace the parts, in place. Weights and their names stay; those without any effect left are frozen."""
    for block in transformer.blocks:
        block.attn1.set_processor(FusedSelfAttention())
        block.attn2.set_processor(SingleTokenCrossAttention())
        block.ffn.net[0].gelu = gelu
        block.norm2.forward = _unchanged
        for unused in (block.norm2, *(getattr(block.attn2, name) for name in ("to_q", "to_k", "norm_q", "norm_k"))):
            unused.requires_grad_(False)
    return transformer


def use_fused_joint_attention(transformer: CogVideoXTransformer3DModel) -> CogVideoXTransformer3DModel:
    """Replace CogVideoX's attention, in place."""
    for block in transformer.transformer_blocks:
        block.attn1.set_processor(FusedJointAttention())
    return transformer


class FusedSelfAttention:
    """Wan's self-attention; a rotary position is a rotation in the complex plane (Su et al. 2021, arXiv 2104.09864)."""

    def __call__(self, attn: Any, hidden: Tensor, _text: None, _mask: None, rotary: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = (part.transpose(1, 2)[..., ::2] for part in rotary)  # (1, 1, tokens, head / 2)
        rotation = torch.complex(cos, sin)
        query, key = (_rotated(part, rotation, attn.heads) for part in (
            _normed(attn.norm_q, attn.to_q(hidden)), _normed(attn.norm_k, attn.to_k(hidden)))
        )  # fmt: skip
        value = _heads(attn.to_v(hidden), attn.heads)
        attended = attend(query, key, value)
        return attn.to_out[0](attended.transpose(1, 2).flatten(2))


class FusedJointAttention:
    """CogVideoX's joint attention of text and video. Only the video has positions; text is not rotated."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor], attention_mask: None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        tokens = encoder_hidden_states.shape[1]
        both = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        cos, sin = (part[:, ::2] for part in image_rotary_emb)  # (tokens, head / 2)
        rotation = functional.pad(torch.complex(cos, sin), (0, 0, tokens, 0), value=1)
        query, key = (
            _rotated(norm(part.unflatten(2, (attn.heads, -1))).flatten(2), rotation, attn.heads)
            for norm, part in ((attn.norm_q, attn.to_q(both)), (attn.norm_k, attn.to_k(both)))
        )
        attended = attend(query, key, _heads(attn.to_v(both), attn.heads))
        output = attn.to_out[0](attended.transpose(1, 2).flatten(2))
        return output[:, tokens:], output[:, :tokens]


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K' / sqrt(d)) V, each (B, heads, tokens, width); written out where that is fastest: on a CPU, in bf16, with
    gradients.
    """
    if query.device.type != "cpu" or query.dtype == torch.float32 or not torch.is_grad_enabled():
        return functional.scaled_dot_product_attention(query, key, value)
    return (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1) @ value


def _normed(norm: torch.nn.RMSNorm, tokens: Tensor) -> Tensor:
    """With the weights in the tokens' precision: torch is slow, and warns of it, where the two differ."""
    weight = None if norm.weight is None else norm.weight.to(tokens.dtype)
    return functional.rms_norm(tokens, norm.normalized_shape, weight, norm.eps)


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, tokens, width) to (B, heads, tokens, width / heads)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def _rotated(tokens: Tensor, rotation: Tensor, heads: int) -> Tensor:
    pairs = _heads(tokens, heads).float().unflatten(-1, (-1, 2)).contiguous()
    return torch.view_as_real(torch.view_as_complex(pairs) * rotation).flatten(-2).to(tokens.dtype)


class SingleTokenCrossAttention:
    """Cross-attention to one text token, (B, 1, width): the same for every query."""

    def __call__(self, attn: Any, hidden: Tensor, text: Tensor, _mask: None, _rotary: None) -> Tensor:
        if text.shape[1] != 1:
            raise ValueError(f"the text has {text.shape[1]} tokens; this attention is for one")
        return attn.to_out[0](attn.to_v(text))


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


def gelu(x: Tensor) -> Tensor:
    """GELU by tanh, as diffusers' blocks have it. In half precision on a CPU the exact one, by erf: it takes a quarter of
    the time, and the two are at most 5e-4 apart, which is what the rounding of the input does to either.
    """
    if x.dtype == torch.float32:
        return Gelu.apply(x)
    return functional.gelu(x, approximate="none" if x.device.type == "cpu" else "tanh")


class Gelu(torch.autograd.Function):
    """gelu_tanh(x) = x s, s = sigmoid(2 c (x + a x^3)), c = sqrt(2 / pi), a = 0.044715 (Hendrycks and Gimpel 2016)."""

    C = 2 * math.sqrt(2 / math.pi)
    A = 0.044715

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """gelu_tanh of `x`; keeps `x` and s."""
        sigmoid = x.square().mul_(Gelu.C * Gelu.A).add_(Gelu.C).mul_(x).sigmoid_()
        ctx.save_for_backward(x, sigmoid)
        return x * sigmoid

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient times s (1 + x (1 - s) du/dx), where s = sigmoid(u)."""
        x, sigmoid = ctx.saved_tensors
        slope = x.square().mul_(3 * Gelu.C * Gelu.A).add_(Gelu.C).mul_(x)  # x du/dx
        return slope.addcmul_(slope, sigmoid, value=-1).add_(1).mul_(sigmoid).mul_(gradient)
