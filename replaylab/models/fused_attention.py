"""Attention and GELU of diffusers' transformers with fewer passes over memory, which dominate a step at this size.

Decision: diffusers' blocks are unchanged, and three of their parts are replaced by equivalents that compute the same up to
rounding: rotary embedding is one complex multiplication instead of two strided writes; GELU is computed from a sigmoid, in
place, with its derivative in closed form; and cross-attention to a single token, whose softmax is 1 for any query, equals
that token's value, so the query's norm is left out (`make bench` compares). In half precision on a CPU, where memory is the
bottleneck, a block's norms, modulation and residuals stay in half precision, each in one pass. In CogVideoX's blocks only
the attention is replaced.
"""

from __future__ import annotations

import math
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from diffusers import CogVideoXTransformer3DModel, WanTransformer3DModel


def use_fused_attention(transformer: WanTransformer3DModel) -> WanTransformer3DModel:
    """Replace the parts, in place. Weights and their names are unchanged; weights without effect are frozen."""
    for block in transformer.blocks:
        block.forward = MethodType(block_forward, block)
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


def block_forward(block: Any, hidden: Tensor, text: Tensor, modulation: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """The forward pass of a Wan block. In half precision on a CPU its own would use fp32 in memory for every norm, factor
    and sum; here each is rounded to half precision, as its result is there.
    """
    if not _is_half_on_cpu(hidden):
        return type(block).forward(block, hidden, text, modulation, rotary)
    # (B, 6, width): shift, scale and gate of the attention, then of the feed-forward layer
    shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = (block.scale_shift_table + modulation.float()).split(1, dim=1)

    def modulated(norm: Any, shift: Tensor, scale: Tensor) -> Tensor:
        normed = functional.layer_norm(hidden, norm.normalized_shape, eps=norm.eps)
        return torch.addcmul(shift.to(hidden.dtype), normed, (1 + scale).to(hidden.dtype))

    attended = block.attn1(modulated(block.norm1, shift, scale), None, None, rotary)
    hidden = torch.addcmul(hidden, attended, gate.to(hidden.dtype))
    hidden = hidden + block.attn2(hidden, text, None, None)
    fed_forward = block.ffn(modulated(block.norm3, shift_ffn, scale_ffn))
    return torch.addcmul(hidden, fed_forward, gate_ffn.to(hidden.dtype))


def _is_half_on_cpu(hidden: Tensor) -> bool:
    """Whether the tensor is in half precision on a CPU; false while torch compiles, which fuses the operations itself."""
    return hidden.device.type == "cpu" and hidden.dtype != torch.float32 and not torch.compiler.is_compiling()


class FusedSelfAttention:
    """Wan's self-attention; a rotary position is a rotation in the complex plane (Su et al. 2021, arXiv 2104.09864)."""

    def __call__(self, attn: Any, hidden: Tensor, _text: None, _mask: None, rotary: tuple[Tensor, Tensor]) -> Tensor:
        cos, sin = (part.transpose(1, 2)[..., ::2] for part in rotary)  # (1, 1, tokens, head / 2)
        rotation = torch.complex(cos, sin)

        def turned(norm: torch.nn.RMSNorm, tokens: Tensor) -> Tensor:
            if _is_half_on_cpu(tokens):
                return NormAndRotation.apply(tokens, norm.weight, rotation, attn.heads, norm.eps)
            return _rotated(_normed(norm, tokens), rotation, attn.heads)

        query, key = turned(attn.norm_q, attn.to_q(hidden)), turned(attn.norm_k, attn.to_k(hidden))
        value = _heads(attn.to_v(hidden), attn.heads)
        attended = attend(query, key, value)
        return attn.to_out[0](attended.transpose(1, 2).flatten(2))


class FusedJointAttention:
    """CogVideoX's joint attention of text and video. Only video tokens have positions; text tokens are not rotated."""

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
    """softmax(Q K' / sqrt(d)) V, each (B, heads, tokens, width); computed explicitly where that is fastest: on a CPU, in
    bf16, with gradients.
    """
    if query.device.type != "cpu" or query.dtype == torch.float32 or not torch.is_grad_enabled():
        return functional.scaled_dot_product_attention(query, key, value)
    return (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1) @ value


def _normed(norm: torch.nn.RMSNorm, tokens: Tensor) -> Tensor:
    """The norm with weights in the tokens' precision: torch is slow, and warns, if the two differ."""
    weight = None if norm.weight is None else norm.weight.to(tokens.dtype)
    return functional.rms_norm(tokens, norm.normalized_shape, weight, norm.eps)


def _heads(tokens: Tensor, heads: int) -> Tensor:
    """(B, tokens, width) to (B, heads, tokens, width / heads)."""
    return tokens.unflatten(2, (heads, -1)).transpose(1, 2)


def _rotated(tokens: Tensor, rotation: Tensor, heads: int) -> Tensor:
    pairs = _heads(tokens, heads).float().unflatten(-1, (-1, 2)).contiguous()
    return torch.view_as_real(torch.view_as_complex(pairs) * rotation).flatten(-2).to(tokens.dtype)


class NormAndRotation(torch.autograd.Function):
    """`_normed` and `_rotated` of tokens (B, tokens, width) in half precision, computed in fp32 and rounded once, with
    derivatives in closed form: (B, heads, tokens, width / heads). rotation (1, 1, tokens, width / heads / 2), complex.
    """

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, rotation: Tensor, heads: int, eps: float | None) -> Tensor:
        """The rotation of x r w, where r = 1 / sqrt(mean(x^2) + eps) for each token; keeps x and r."""
        norm = torch.linalg.vector_norm(tokens, dim=-1, keepdim=True, dtype=torch.float32)
        eps = torch.finfo(tokens.dtype).eps if eps is None else eps
        scale = norm.square_().div_(tokens.shape[-1]).add_(eps).rsqrt_()
        rotation = rotation.transpose(1, 2)  # (1, tokens, 1, width / heads / 2)
        ctx.save_for_backward(tokens, weight, rotation, scale)
        normed = tokens.to(torch.float32, copy=True).mul_(scale).mul_(weight)
        _complex(normed, heads).mul_(rotation)
        return _heads(normed, heads).to(tokens.dtype, memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """With u = x r and g the gradient of u w, rotated back: r (g w - u mean(g w u)) for x, the sum of g u for w."""
        tokens, weight, rotation, scale = ctx.saved_tensors
        heads = gradient.shape[1]
        back = gradient.transpose(1, 2).to(torch.float32, copy=True, memory_format=torch.contiguous_format).flatten(2)
        _complex(back, heads).mul_(rotation.conj())
        normed = tokens.to(torch.float32, copy=True).mul_(scale)
        product = back * normed
        of_weight = product.sum((0, 1)) if ctx.needs_input_grad[1] else None
        inner = (product @ weight).unsqueeze(-1)
        of_tokens = back.mul_(weight).addcmul_(normed, inner, value=-1 / tokens.shape[-1]).mul_(scale)
        return of_tokens.to(tokens.dtype), of_weight, None, None, None


def _complex(tokens: Tensor, heads: int) -> Tensor:
    """(B, tokens, width) as pairs (B, tokens, heads, width / heads / 2), a complex view."""
    return torch.view_as_complex(tokens.unflatten(-1, (heads, -1, 2)))


class SingleTokenCrossAttention:
    """Cross-attention to one text token, (B, 1, width): the same for every query."""

    def __call__(self, attn: Any, hidden: Tensor, text: Tensor, _mask: None, _rotary: None) -> Tensor:
        if text.shape[1] != 1:
            raise ValueError(f"the text has {text.shape[1]} tokens; this attention is for one")
        return attn.to_out[0](attn.to_v(text))


def _unchanged(hidden: Tensor) -> Tensor:
    return hidden


def gelu(x: Tensor) -> Tensor:
    """GELU with tanh, as in diffusers' blocks. In half precision on a CPU the exact one with erf is used: it takes a quarter
    of the time, and the two differ by at most 5e-4, the effect of rounding the input.
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
