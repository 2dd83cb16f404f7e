"""GPU paths as far as a CPU can show them: devices, kernels, masks, precision, fake CUDA tensors."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from transformers.modeling_utils import _CAN_RECORD_REGISTRY

from scalelab.architecture import architecture_for
from scalelab.errors import ScalelabError
from scalelab.model import add_streams, attention, kernels
from scalelab.model.kernels import KernelChoice, choose_kernel
from scalelab.sweep import run as run_module
from scalelab.sweep.run import Execution, prepare
from scalelab.sweep.spec import SweepSpec
from scalelab.sweep.task_queue import record_lost
from scalelab.sweep.tasks import make_tasks
from scalelab.train import device, devices, probe
from scalelab.train.build import build_model, extra_loss, training_options
from scalelab.train.probe import Gpu, mig_slices, probe_gpus, visible_gpus
from scalelab.train.recipe import Recipe, RunConfig, TextSource
from tests.support.families import make, tokens, warm

TEXT = TextSource("made", "0", "made", "0")
FINE = Gpu("0", "Made GPU", "", 80 * 2**30, 70 * 2**30, True, {"bf16": 6e14, "fp32": 5e13})


def config(P=1, n=5e4, seq_len=64, **changes):
    recipe = Recipe(seq_len=seq_len, batch_size=2, dtype=changes.pop("dtype", "fp32"), val_tokens=1024)
    shape = replace(architecture_for(n, 512, 4, **changes), P=P)
    return RunConfig(shape, 20 * recipe.batch_size * seq_len, 0, TEXT, recipe)


# Devices


def test_peak_counters_wait_for_cuda(monkeypatch):
    def no_context(*args):
        raise RuntimeError("Invalid device argument: did you call init?")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    for name in ("reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, no_context)
    device.reset_peak_memory("cuda:0")
    assert device.peak_memory_bytes("cuda:0") is None


LISTING = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77)
  MIG 1g.5gb      Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)
  MIG 1g.5gb      Device  1: (UUID: MIG-cba663e8-9bed-5b25-b243-5985ef7c9beb)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaaaaaa-d33d-2b2c-524d-9e3d8d2b8a77)
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A machine with two GPUs, the first of them cut in two, as far as the driver's tool tells."""
    script = tmp_path / "bin" / "nvidia-smi"
    script.parent.mkdir()
    script.write_text(f"#!{sys.executable}\nprint('''{LISTING}''')\n")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(script.parent), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_slices_of_a_gpu_are_devices(nvidia_smi, monkeypatch):
    slices = mig_slices(LISTING)["0"]
    assert [name[:12] for name in slices] == ["MIG-c6d4f1ef", "MIG-cba663e8"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus() == [*slices, "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert visible_gpus() == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a77")
    assert visible_gpus() == slices


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, and works")
def test_auto_takes_the_cpu_where_the_gpu_that_is_listed_does_not_work(nvidia_smi, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    probe._probe.cache_clear()
    found = probe_gpus()  # really tried, in three processes
    assert len(found) == 3
    assert not any(gpu.works for gpu in found)
    lines = []
    monkeypatch.setattr(devices, "probe_gpus", lambda dtypes: found)
    assert set(devices.default_slots("auto", lines.append)) == {"cpu"}
    assert len(lines) == 3
    assert "using the CPU" in lines[0]
    with pytest.raises(ScalelabError, match=r"`device='cuda'`: no GPU works \(.+\); use `device='cpu'`"):
        devices.default_slots("cuda")
    probe._probe.cache_clear()


def test_a_gpu_that_does_not_work_is_left_out(monkeypatch):
    broken = Gpu("1", error="no kernel image is available")
    monkeypatch.setattr(devices, "probe_gpus", lambda dtypes: [FINE, broken])
    lines = []
    assert devices.default_slots("auto", lines.append) == ["cuda:0"]
    assert lines == ["cuda:1 does not work and is not used: no kernel image is available"]


def test_bf16_only_where_the_device_computes_in_it(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(devices, "probe_gpus", lambda dtypes: [FINE, replace(FINE, native_bf16=False)])
    assert [devices.resolve_dtype("auto", name) for name in ("cuda:0", "cuda:1", "cpu")] == ["bf16", "fp32", "fp32"]


def test_a_worker_sees_its_device_alone(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert devices.select_device("cpu", None) == "cpu"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert devices.select_device("cuda:1", "MIG-cba663e8") == "cuda:0"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "MIG-cba663e8"


def test_the_process_of_a_sweep_never_touches_cuda(monkeypatch, text_folder, tmp_path):
    def touched(*args, **kwargs):
        raise AssertionError("a CUDA context in the sweep's own process")

    for name in ("_lazy_init", "mem_get_info", "get_device_name", "get_device_properties"):
        monkeypatch.setattr(torch.cuda, name, touched)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices, "probe_gpus", lambda dtypes: [FINE, FINE])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    spec = SweepSpec("t", N=(12e3,), P=(1, 2), D=(10e3,), seeds=(0,), corpus=str(text_folder), tokenizer=300)
    resolved, left, at, _ = prepare(spec, tmp_path, Execution("auto", per_gpu=0), Console(quiet=True))
    assert set(at) == {"cuda:0", "cuda:1"}
    assert left[0].recipe.dtype == "bf16"
    assert run_module._peak_flops(at[0], "bf16") == 6e14
    assert device.device_memory_bytes("cuda:1") == 80 * 2**30
    record_lost(make_tasks(left)[0], tmp_path, "failed", "made", "cuda:0")
    assert list(tmp_path.glob("runs/*.parquet"))
    assert len(resolved.runs) == 2


_RANK = """
import sys
import torch
import torch.distributed as dist
from scalelab.errors import ScalelabError
from scalelab.train.parallel import _check_same
rank, store, zeros = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "zeros"
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
torch.manual_seed(0)
model = torch.nn.Linear(8, 8)
if zeros and rank == 1:  # as a launcher loads every rank but the first, to be filled later
    torch.nn.init.zeros_(model.weight)
try:
    _check_same(model, "cpu")
    print("same")
except ScalelabError as error:
    print(error)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("how", "said"), [("equal", "same"), ("zeros", "the processes hold different weights")])
def test_processes_that_hold_different_weights_do_not_train(how, said, tmp_path):
    environment = os.environ | ({"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {})
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(rank), str(tmp_path / "store"), how],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    lines = [rank.communicate(timeout=120)[0] for rank in ranks]
    assert all(line.startswith(said) for line in lines), lines


# Kernels and masks


@pytest.mark.parametrize(
    ("capability", "dtype", "length", "masked", "trains", "want"),
    [
        ((9, 0), torch.bfloat16, 1024, False, True, KernelChoice(cudnn=True, grouped=True)),
        (
            (9, 0),
            torch.bfloat16,
            1,
            False,
            False,
            KernelChoice(cudnn=False, grouped=True),
        ),  # a plan for every new length
        ((9, 0), torch.bfloat16, 1024, False, False, KernelChoice(cudnn=False, grouped=True)),
        ((10, 0), torch.bfloat16, 1024, False, True, KernelChoice(cudnn=False, grouped=True)),  # not measured there
        ((9, 0), torch.float32, 1024, False, True, KernelChoice(cudnn=False, grouped=False)),  # no kernel takes groups
        ((8, 0), torch.float16, 64, True, True, KernelChoice(cudnn=False, grouped=False)),
    ],
)
def test_kernels_are_chosen_by_device_precision_and_shape(capability, dtype, length, masked, trains, want):
    assert choose_kernel(capability, dtype, length, masked, trains) == want


@pytest.mark.parametrize("P", [1, 4])
def test_fused_kernels_get_one_precision_under_autocast(P, monkeypatch):
    seen = []
    attend = F.scaled_dot_product_attention

    def spy(query, key, value, *args, **kwargs):
        seen.append({query.dtype, key.dtype, value.dtype})
        return attend(query, key, value, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    model = build_model(config(P, dtype="bf16")).train()
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.zeros((2, 64), dtype=torch.long), use_cache=False)
    assert seen
    assert all(dtypes == {torch.bfloat16} for dtypes in seen)


def masks_in_graph(model, ids):
    """Shape of the mask, or None, and causality of the attention calls in the compiled graph."""
    found = []

    def look(module, inputs):
        for node in module.graph.nodes:
            if "scaled_dot_product" in str(node.target):
                mask = node.kwargs.get("attn_mask", node.args[3] if len(node.args) > 3 else None)
                causal = node.kwargs.get("is_causal", node.args[5] if len(node.args) > 5 else False)
                found.append((None if mask is None else tuple(mask.meta["example_value"].shape), causal))
        return module

    torch.compiler.reset()
    torch.compile(model, backend=look, fullgraph=True)(ids, use_cache=False)
    torch.compiler.reset()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2", "llama", "mixtral", "gemma2"])
@pytest.mark.parametrize("P", [1, 4])
def test_a_compiled_graph_makes_no_mask_where_nothing_is_masked(name, P, monkeypatch):
    if name == "gemma2":
        pytest.skip("has no SDPA for a softcap")
    monkeypatch.setattr(attention, "_ZERO_QUERY_LENGTH", 8)
    model = warm(add_streams(make(name), [4, 2], prefix_tokens=5)).train()
    model.set_streams(P)
    model.set_attn_implementation("parscale_sdpa")
    model.get_decoder().prefixes_verified = True
    calls = masks_in_graph(model, tokens())
    assert calls
    assert all(mask is None and causal for mask, causal in calls)


def test_a_short_sequence_gets_one_small_mask_for_all_rows():
    model = warm(add_streams(make("qwen2"), 4, prefix_tokens=5)).train()
    model.get_decoder().prefixes_verified = True
    ids = tokens()
    rows, length = ids.shape
    assert rows > 1
    assert {mask for mask, _ in masks_in_graph(model, ids)} == {(1, 1, length, 5 + length)}


@pytest.mark.parametrize("name", ["qwen2", "llama"])
def test_padding_and_packing_still_make_masks(name):
    model = warm(add_streams(make(name), 4, prefix_tokens=5)).eval()
    ids = tokens()
    padded = torch.ones_like(ids)
    padded[0, :3] = 0
    plain, masked = model(ids).logits, model(ids, attention_mask=padded).logits
    assert not torch.allclose(plain[0, 3:], masked[0, 3:], atol=1e-3)
    torch.testing.assert_close(plain[1], masked[1], atol=1e-4, rtol=1e-4)
    half = ids.shape[1] // 2
    positions = torch.cat([torch.arange(half), torch.arange(ids.shape[1] - half)])[None].expand_as(ids)
    packed = model(ids, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(packed[:, half:], model(ids[:, half:]).logits, atol=2e-4, rtol=1e-4)


# Experts


def test_a_missing_balancing_loss_is_an_error():
    model = build_model(config(2, num_experts=4)).train()
    outputs = model(torch.zeros((2, 16), dtype=torch.long), use_cache=False, **training_options(model))
    assert float(extra_loss(model, outputs).detach()) > 0
    outputs.router_logits, outputs.aux_loss = None, 0
    with pytest.raises(ScalelabError, match="the logits of its routers are missing"):
        extra_loss(model, outputs)
    # Earlier versions of transformers look under the name of the class.
    assert "router_logits" in _CAN_RECORD_REGISTRY.get(str(type(model.get_decoder())))


def test_small_experts_run_with_bf16_weights():
    model = build_model(config(2, num_experts=4)).to(torch.bfloat16).eval()
    with torch.no_grad():
        assert model(torch.zeros((2, 16), dtype=torch.long), use_cache=False).logits.isfinite().all()


# Fake CUDA tensors: every operation checks that its tensors are on one device


@pytest.fixture
def fake_cuda(monkeypatch):
    if not torch.backends.cuda.is_built():  # it would end the interpreter
        pytest.skip("fake CUDA tensors need a torch that is built with CUDA; make test-versions has one")
    monkeypatch.setattr(kernels, "_capability", lambda device: (9, 0))
    return FakeTensorMode(allow_non_fake_inputs=False)


def on_fake_cuda(model, mode, dtype=torch.float32):
    """`model` with fake tensors on a CUDA device in place of its own."""
    made = {}
    with mode:
        for module in model.modules():
            for held in (module._parameters, module._buffers):
                for name, tensor in held.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in made:
                        kind = dtype if isinstance(tensor, torch.nn.Parameter) else tensor.dtype
                        fake = torch.empty(tensor.shape, dtype=kind, device="cuda")
                        is_parameter = isinstance(tensor, torch.nn.Parameter)
                        made[id(tensor)] = torch.nn.Parameter(fake) if is_parameter else fake
                    held[name] = made[id(tensor)]
    model.get_decoder().prefixes_verified = True
    return model


@pytest.mark.parametrize("P", [1, 4])
def test_a_training_step_on_fake_cuda_tensors(P, fake_cuda):
    model = on_fake_cuda(build_model(config(P)).train(), fake_cuda)
    with fake_cuda:
        ids = torch.zeros((2, 65), dtype=torch.long, device="cuda")
        logits = model(ids[:, :-1], use_cache=False).logits
        assert logits.device.type == "cuda"
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        assert loss.device.type == "cuda"
        try:
            loss.backward()
        except RuntimeError as error:
            if "PrimaryContext" not in str(error):
                raise
            pytest.skip("the forward pass is right; torch's engine wants a real device for the backward one")
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.device.type == "cuda", name


@pytest.mark.parametrize("split", [False, True])
def test_cached_decoding_on_fake_cuda_tensors(split, fake_cuda, monkeypatch):
    if split:
        monkeypatch.setattr(attention, "_SPLIT_BYTES", 0)
    model = on_fake_cuda(build_model(config(4)).eval(), fake_cuda, torch.bfloat16)
    with fake_cuda, torch.no_grad():
        out = model(torch.zeros((2, 10), dtype=torch.long, device="cuda"), use_cache=True)
        for _ in range(3):
            token = out.logits[:, -1:].argmax(-1)
            out = model(token, past_key_values=out.past_key_values, use_cache=True)
    assert out.logits.device.type == "cuda"
    assert out.logits.shape == (2, 1, 512)
    assert out.past_key_values.get_seq_length() == 13


def test_fake_tensors_find_what_lies_on_another_device(fake_cuda, monkeypatch):
    model = on_fake_cuda(build_model(config(4)).train(), fake_cuda)
    bank = model.model.layers[0].self_attn
    with fake_cuda:
        bank.prefix_k = torch.nn.Parameter(torch.empty(bank.prefix_k.shape, device="cpu"))
        with pytest.raises(RuntimeError, match="device"):
            model(torch.zeros((2, 64), dtype=torch.long, device="cuda"), use_cache=False)


# Widths


def test_every_width_of_the_dial_suits_fused_kernels():
    for exponent in range(100):
        shape = architecture_for(1.1e4 * 10 ** (exponent * 0.07), 512)
        assert shape.hidden_size % 8 == 0
        assert shape.head_dim % 8 == 0


def test_records_made_with_the_first_ladder_keep_their_keys():
    """A later command finds the runs of a committed sweep done, and a fit separates them from other widths."""
    from scalelab import records

    folder = Path(__file__).parents[2] / "results" / "parallel-law"
    row = records.load(folder).iloc[0]
    old = RunConfig.from_json(row["config"])
    assert old.key == row["key"]
    assert old.setup == row["setup"]
    assert replace(old, ladder=2).setup != row["setup"]
