"""The exchanged parts compute what diffusers' own compute: outputs, gradients, adapters."""

import copy

import pytest
import torch
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from peft import LoraConfig
from torch.nn import functional

from replaylab.models import fused_attention, tiny, tiny_cogvideox
from replaylab.models.autoencoder import LATENT_CHANNELS
from replaylab.models.tiny_cogvideox import TinyCogVideoX
from replaylab.models.tiny_wan import TinyWan, new_transformer


def heard(transformer):
    """With no weight 0 or 1, so that every part is heard."""
    with torch.no_grad():
        for weight in transformer.parameters():
            weight += 0.05 * torch.randn_like(weight)
    return transformer


@pytest.fixture
def pair():
    """The base's transformer with random weights, as it is and fused, and what goes into it."""
    torch.manual_seed(0)
    plain = heard(new_transformer())
    inputs = {
        "hidden_states": torch.randn(2, 4 * LATENT_CHANNELS, 5, 8, 8), "timestep": torch.tensor([10.0, 900.0]),
        "encoder_hidden_states": torch.randn(2, 1, tiny.TEXT_DIM), "return_dict": False,
    }  # fmt: skip
    return plain, fused_attention.use_fused_attention(copy.deepcopy(plain)), inputs


def test_outputs_and_gradients_are_those_of_diffusers(pair):
    plain, fused, inputs = pair
    one, other = plain(**inputs)[0], fused(**inputs)[0]
    assert torch.allclose(one, other, atol=1e-5) and one.abs().mean() > 0.05
    for made in (one, other):
        made.square().sum().backward()
    theirs = dict(plain.named_parameters())
    for name, weight in fused.named_parameters():
        wanted = theirs[name].grad
        if not weight.requires_grad:  # the softmax of one number is 1, whatever the query
            assert weight.grad is None and wanted.abs().max() < 1e-4, name
        else:
            assert torch.allclose(weight.grad, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()) + 1e-7), name


def test_attention_of_text_and_video_together_is_that_of_diffusers():
    torch.manual_seed(0)
    fused = heard(TinyCogVideoX.new(None).transformer)
    plain = copy.deepcopy(fused)
    plain.set_attn_processor(CogVideoXAttnProcessor2_0())
    inputs = {
        "hidden_states": torch.randn(2, 5, 4 * LATENT_CHANNELS, 8, 8), "timestep": torch.tensor([10, 900]),
        "encoder_hidden_states": torch.randn(2, 3, tiny.TEXT_DIM), "return_dict": False,
        "image_rotary_emb": tiny_cogvideox._rotary_embedding((8, 8), torch.device("cpu")),
    }  # fmt: skip
    one, other = plain(**inputs)[0], fused(**inputs)[0]
    assert torch.allclose(one, other, atol=1e-5) and one.abs().mean() > 0.05
    for made in (one, other):
        made.square().sum().backward()
    for (name, weight), theirs in zip(fused.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(weight.grad, theirs.grad, rtol=1e-3, atol=1e-4 * float(theirs.grad.abs().max()) + 1e-7), name


def test_names_and_files_stay_the_same(pair, tmp_path):
    plain, fused, inputs = pair
    fused.save_pretrained(tmp_path)
    again = type(plain).from_pretrained(tmp_path)
    assert again.state_dict().keys() == fused.state_dict().keys() == plain.state_dict().keys()
    assert torch.equal(again(**inputs)[0], plain(**inputs)[0])


def test_adapters_are_heard(pair):
    plain, fused, inputs = pair
    for network in (plain, fused):
        torch.manual_seed(1)
        network.add_adapter(LoraConfig(r=2, target_modules=TinyWan.ADAPTED, init_lora_weights=False))
    with_adapters = fused(**inputs)[0]
    assert torch.allclose(plain(**inputs)[0], with_adapters, atol=1e-5)
    fused.disable_adapters()
    assert not torch.allclose(fused(**inputs)[0], with_adapters, atol=1e-3)


def test_gelu_and_its_derivative():
    x = torch.linspace(-8, 8, 401, dtype=torch.float64, requires_grad=True)
    assert torch.allclose(fused_attention.Gelu.apply(x), functional.gelu(x, approximate="tanh"), atol=1e-12)
    assert torch.autograd.gradcheck(fused_attention.Gelu.apply, x)


def test_more_words_than_one_are_refused(pair):
    *_, fused, inputs = pair
    with pytest.raises(ValueError, match="the text has 3 tokens"):
        fused(**{**inputs, "encoder_hidden_states": torch.randn(2, 3, tiny.TEXT_DIM)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_written_out_is_torchs(dtype):
    random = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 2, 20, 64, generator=random).to(dtype).requires_grad_() for _ in range(3)]
    ours = fused_attention.attend(*parts)
    exact = functional.scaled_dot_product_attention(*(part.detach().double().requires_grad_() for part in parts))
    assert ours.dtype == dtype
    assert torch.allclose(ours.double(), exact, atol=1e-5 if dtype == torch.float32 else 0.03)
    ours.float().square().sum().backward()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in parts)


def test_in_half_precision_gelu_is_the_tanh_one_up_to_the_rounding_of_its_input():
    x = torch.linspace(-8, 8, 4001)
    rounded = x.bfloat16()
    exact = functional.gelu(rounded.double(), approximate="tanh")
    by_input = (functional.gelu(x.double(), approximate="tanh") - exact).abs().max()
    error = (fused_attention.gelu(rounded).double() - exact).abs()
    by_output = (exact.bfloat16().double() - exact).abs()
    assert by_input > 1e-3 and (error - by_output).max() <= 1e-3
    assert fused_attention.gelu(rounded).dtype == torch.bfloat16


@pytest.mark.parametrize("learning", [False, True])
def test_attention_in_half_precision_is_the_same_with_gradients_and_without(learning):
    random = torch.Generator().manual_seed(0)
    parts = [torch.randn(2, 2, 20, 64, generator=random) for _ in range(3)]
    with torch.set_grad_enabled(learning):
        ours = fused_attention.attend(*(part.bfloat16() for part in parts))
    assert torch.allclose(ours.float(), functional.scaled_dot_product_attention(*parts), atol=0.03)


def distance(some, others):
    """Of two lists of tensors, relative to the second."""
    difference = sum(float((one.double() - other.double()).square().sum()) for one, other in zip(some, others, strict=True))
    return (difference / sum(float(other.double().square().sum()) for other in others)) ** 0.5


def test_blocks_in_half_precision_are_as_near_to_fp32_as_diffusers_own(pair):
    plain, fused, inputs = pair
    trained = [name for name, weight in fused.named_parameters() if weight.requires_grad]

    def found(network, half):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = network(**inputs)[0]
        output.float().square().sum().backward()
        weights, network_grads = dict(network.named_parameters()), []
        for name in trained:
            network_grads.append(weights[name].grad)
            weights[name].grad = None
        return output.detach(), network_grads

    exact, theirs, ours = found(plain, False), found(plain, True), found(fused, True)
    for part in (0, 1):
        errors = [distance(*(list(each[part]) for each in (one, exact))) for one in (theirs, ours)]
        assert 0 < errors[1] < 1.25 * errors[0] < 0.1, (part, errors)


def test_norm_and_rotation_and_their_derivatives_are_those_of_the_parts():
    random = torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 10, 16, generator=random).requires_grad_()
    norm = torch.nn.RMSNorm(16, eps=1e-6)
    with torch.no_grad():
        norm.weight += 0.3 * torch.randn(16, generator=random)
    angle = 6 * torch.rand(1, 1, 10, 4, generator=random)
    rotation = torch.complex(angle.cos(), angle.sin())
    before = tokens.detach().clone()
    one = fused_attention._rotated(fused_attention._normed(norm, tokens), rotation, 2)
    other = fused_attention.NormAndRotation.apply(tokens, norm.weight, rotation, 2, norm.eps)
    wanted, ours = (
        torch.autograd.grad((made * made.detach().roll(1, 2)).sum(), (tokens, norm.weight)) for made in (one, other)
    )
    assert torch.equal(tokens, before) and torch.allclose(one, other, atol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(wanted, ours, strict=True))
