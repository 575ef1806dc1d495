"""A compiled model computes what the plain one computes, in whole graphs."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from cwsam_cli.distributed.parallelize import checkpoint_activations
from cwsam_cli.errors import MachineError
from cwsam_cli.model.compiled import compile_blocks, pack_experts
from cwsam_cli.model.experts import collect_routing
from cwsam_cli.model.network import ClassWiseSam
from cwsam_cli.model.routing import routing_loss
from tests.small import small

EXPERTS = {
    "moe_num_expert_groups": 2,
    "moe_experts_per_group": 4,
    "moe_k_groups": 1,
    "moe_k_experts": 2,
    "moe_start_layer_index": 1,
}
CPU = torch.device("cpu")

pytestmark = [  # what torch itself does while it traces
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def whole_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile without code generation. A break in a graph is an error."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, fullgraph=True, backend="aot_eager"))
    torch._dynamo.reset()


@pytest.mark.parametrize("recomputes", [False, True])
def test_a_compiled_model_learns_what_a_plain_one_learns(recomputes: bool) -> None:
    torch.manual_seed(0)
    decoder = {"moe_decoder_experts": 4, "moe_decoder_k_experts": 2} if recomputes else {}
    plain = ClassWiseSam(small(**EXPERTS, **decoder))
    compiled = deepcopy(plain)
    compile_blocks(compiled, CPU, experts=not recomputes)
    if recomputes:
        checkpoint_activations(compiled)
    else:
        pack_experts(compiled)
    for batch in (2, 3):
        image = torch.randn(batch, 3, 32, 32)
        results = []
        for model in (plain, compiled):
            model.zero_grad()
            with collect_routing(model.train()) as routing:
                logits = model(image)
            (logits.square().mean() + routing_loss(routing, balance=1.0, z=1.0)).backward()
            results.append((logits.detach(), {name: own.grad for name, own in model.named_parameters()}))
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(compiled.eval()(image), plain.eval()(image), rtol=1e-4, atol=1e-5)


def test_a_model_with_experts_can_be_exported() -> None:
    model, image = ClassWiseSam(small(**EXPERTS)).eval(), torch.randn(1, 3, 32, 32)
    exported = torch.export.export(model, (image,))
    torch.testing.assert_close(exported.module()(image), model(image))


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with (
        torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}),
        pytest.raises(MachineError, match="cannot compile a model for cpu") as caught,
    ):
        compile_blocks(ClassWiseSam(small()), CPU, experts=True)
    assert "C++ compiler" in str(caught.value.hint)
