"""The Python side of scripts/hf_parity, which says what it does and how to call it."""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file
from transformers import MixtralConfig, MixtralForCausalLM

WEFT = os.environ["WEFT"]
FIXTURES = Path("tests/data/hf")
STEPS = 10
OPTIMIZER = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1, "clip_norm": 1.0}
LIMITS = {"logits": 1e-4, "gradients": 1e-3, "aux gradients": 1e-3, "losses": 1e-4, "bytes": 0.0}
AUX_COEF = 0.05
NO_AUX = ["--set", "model.moe.balance_loss_coef=0"]


def random_config(seed):
    """Grouped queries, and sizes that are no powers of two. Two choices or more: the only weight of a single one is 1, so the
    router's gradient would be rounding noise, which AdamW turns into steps of full size."""
    r = random.Random(seed)
    kv_heads, experts = r.choice([1, 2, 3]), r.randint(3, 7)
    heads = kv_heads * r.choice([2, 3])
    return MixtralConfig(
        hidden_size=4 * r.randint(5, 14), intermediate_size=r.randint(9, 45), num_hidden_layers=r.randint(1, 3),
        num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=2 * r.randint(3, 9), vocab_size=r.randint(40, 120),
        num_local_experts=experts, num_experts_per_tok=r.randint(2, min(4, experts)), rms_norm_eps=r.choice([1e-6, 1e-5, 1e-3]),
        tie_word_embeddings=r.random() < 0.3, rope_parameters=rope(r.choice([1e4, 1e6])), max_position_embeddings=64,
        bos_token_id=None, eos_token_id=None)


def rope(theta):
    return {"rope_type": "default", "rope_theta": theta}


def fixture_configs():
    """Name -> (how it is saved, config). Small: the files are committed."""
    common = {"max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None}
    return {
        "per_expert": ("per_expert", MixtralConfig(
            hidden_size=48, intermediate_size=40, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, head_dim=8,
            vocab_size=61, num_local_experts=5, num_experts_per_tok=3, rope_parameters=rope(1e6), **common)),
        "fused": ("fused", MixtralConfig(
            hidden_size=40, intermediate_size=22, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3, head_dim=14,
            vocab_size=53, num_local_experts=7, num_experts_per_tok=2, tie_word_embeddings=True, rms_norm_eps=1e-3,
            rope_parameters=rope(1e4), **common)),
        "sharded": ("sharded", MixtralConfig(
            hidden_size=36, intermediate_size=26, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=1, head_dim=10,
            vocab_size=97, num_local_experts=3, num_experts_per_tok=2, rms_norm_eps=1e-6, rope_parameters=rope(1e5), **common)),
    }


def make_model(config, seed):
    """Random weights, norms too, large enough that attention and router are far from uniform."""
    torch.manual_seed(seed)
    model = build(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.normal_(1.0, 0.3) if p.dim() == 1 else p.normal_(0.0, 0.6 / p.shape[-1] ** 0.5)
    return model


def plain(model):
    """F32, and the code that says what is meant: the fast paths of transformers 5 want sizes that are multiples of 4."""
    model.config._attn_implementation = model.config._experts_implementation = "eager"
    return model.to(torch.float32).train()


def build(config):
    return plain(MixtralForCausalLM(config))


def load(folder):
    return plain(MixtralForCausalLM.from_pretrained(folder))


def save(model, folder, how):
    if how == "fused":  # the names of transformers 5's memory
        model.config.save_pretrained(folder)
        tied = model.config.tie_word_embeddings
        state = {k: v.numpy() for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    else:
        model.save_pretrained(folder, **({"max_shard_size": "120KB"} if how == "sharded" else {}))


def one_by_one(name, tensor):
    """The parts of a tensor of the model in memory under the names of files."""
    name = name.replace(".mlp.", ".block_sparse_moe.")
    prefix = name.rpartition(".")[0]
    for e in range(tensor.shape[0] if tensor.ndim == 3 else 0):
        if name.endswith("gate_up_proj"):
            w1, w3 = np.split(tensor[e], 2)
            yield f"{prefix}.{e}.w1.weight", w1
            yield f"{prefix}.{e}.w3.weight", w3
        else:
            yield f"{prefix}.{e}.w2.weight", tensor[e]
    if tensor.ndim != 3:
        yield name, tensor


def write_tokens(path, tokens):
    header = np.zeros(256, np.int32)
    header[:3] = 20240801, 7, len(tokens)
    path.write_bytes(header.tobytes() + np.asarray(tokens, np.uint32).tobytes())


def read_tokens(path):
    return np.frombuffer(path.read_bytes()[1024:], np.uint32).astype(np.int64)


def windows(tokens, length):
    count = (len(tokens) - 1) // length
    x = torch.tensor(np.stack([tokens[i * length : (i + 1) * length] for i in range(count)]))
    y = torch.tensor(np.stack([tokens[i * length + 1 : (i + 1) * length + 1] for i in range(count)]))
    return x, y


def torch_outputs(model, tokens, length, aux_coef=0.0):
    """Logits [B, S, V] and gradients by name in files, of the mean cross-entropy plus the auxiliary loss."""
    x, y = windows(tokens, length)
    model.zero_grad()
    out = model(input_ids=x, use_cache=False, output_router_logits=aux_coef > 0)
    loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), y.flatten())
    (loss + aux_coef * out.aux_loss if aux_coef > 0 else loss).backward()
    gradients = {}
    for name, p in model.named_parameters():
        gradients.update(one_by_one(name, (torch.zeros_like(p) if p.grad is None else p.grad).numpy()))
    return {"logits": out.logits.detach().numpy(), "gradients": gradients, "loss": loss.item()}


def torch_losses(model, tokens, length):
    o = OPTIMIZER
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": o["weight_decay"]}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])
    x, y = windows(tokens, length)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(input_ids=x, use_cache=False).logits.flatten(0, 1), y.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), o["clip_norm"])
        optimizer.step()
        losses.append(loss.item())
    return losses


def weft(*args):
    done = subprocess.run([WEFT, *map(str, args)], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"weft {' '.join(map(str, args))}: status {done.returncode}\n{done.stderr}")
    return done.stdout


def weft_losses(checkpoint, tokens_file, work, length, count):
    """Each step takes all samples of the file, so their order does not matter."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    (work / "train.textproto").write_text(manifest["config"])
    sets = {f"train.optimizer.{k}": v for k, v in OPTIMIZER.items()}
    sets |= {"train.optimizer.schedule": "CONSTANT", "train.optimizer.warmup_steps": 0, "train.steps": STEPS,
             "train.global_batch": count, "train.micro_batch": 1, "train.sequence_length": length,
             "model.moe.balance_loss_coef": 0, "data.train": tokens_file}
    weft("train", work / "train.textproto", "--init_from", checkpoint, "--run_dir", work / "run", "--resume", "none",
         *[part for k, v in sets.items() for part in ("--set", f"{k}={v}")])
    lines = [json.loads(line) for line in (work / "run/metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def largest(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def worst_gradient(mine, theirs):
    """Largest relative norm of a difference, and whose; against a millionth of the whole where a gradient vanishes."""
    if mine.keys() != theirs.keys():
        sys.exit(f"names of gradients differ: {sorted(mine.keys() ^ theirs.keys())}")
    floor = 1e-6 * sum(float(np.square(g, dtype=np.float64).sum()) for g in theirs.values()) ** 0.5
    error = {n: float(np.linalg.norm(mine[n] - g)) / max(float(np.linalg.norm(g)), floor) for n, g in theirs.items()}
    name = max(error, key=error.get)
    return error[name], name


def different_bytes(model, exported):
    mine, theirs = {}, {}
    for file in sorted(exported.glob("*.safetensors")):
        mine |= load_file(file)
    for name, p in model.named_parameters():
        theirs.update(one_by_one(name, p.detach().numpy()))
    if mine.keys() != theirs.keys():
        sys.exit(f"names of exported tensors differ: {sorted(mine.keys() ^ theirs.keys())}")
    return float(sum(mine[n].dtype != t.dtype or mine[n].tobytes() != np.ascontiguousarray(t).tobytes() for n, t in theirs.items()))


def compare(folder, work, tokens, length):
    """All differences of one model folder, and remarks."""
    count = (len(tokens) - 1) // length
    tokens_file, checkpoint = work / "tokens.bin", work / "checkpoint"
    write_tokens(tokens_file, tokens)
    weft("import", "hf", folder, "--out", checkpoint, "--force")
    evaluate = ["eval", "--checkpoint", checkpoint, "--tokens", tokens_file, "--sequence_length", length]
    weft(*evaluate, *NO_AUX, "--logits", work / "logits.safetensors", "--gradients", work / "gradients.safetensors")
    whole_batch = {"model.moe.balance_loss_coef": AUX_COEF, "model.moe.balance_form": "HUGGING_FACE",
                   "model.moe.group_sequences": count, "train.micro_batch": count}
    weft(*evaluate, "--gradients", work / "aux.safetensors", *[p for k, v in whole_batch.items() for p in ("--set", f"{k}={v}")])
    weft("export", "hf", checkpoint, "--out", work / "exported", "--force")

    model = load(folder)
    expected, with_aux = torch_outputs(model, tokens, length), torch_outputs(model, tokens, length, AUX_COEF)
    found = {"logits": largest(load_file(work / "logits.safetensors")["logits"], expected["logits"])}
    found["gradients"], worst = worst_gradient(load_file(work / "gradients.safetensors"), expected["gradients"])
    found["aux gradients"], _ = worst_gradient(load_file(work / "aux.safetensors"), with_aux["gradients"])
    found["bytes"] = different_bytes(model, work / "exported")
    again = torch_outputs(load(work / "exported"), tokens, length)  # transformers reads what Weft wrote
    if not np.array_equal(again["logits"], expected["logits"]):
        sys.exit(f"{work / 'exported'}: transformers computes other logits than from {folder}")
    mine, theirs = weft_losses(checkpoint, tokens_file, work, length, count), torch_losses(model, tokens, length)
    found["losses"] = largest(np.array(mine), np.array(theirs)) if len(mine) == len(theirs) else float("inf")
    return found, f"loss {theirs[0]:.4f} -> {theirs[-1]:.4f}, worst gradient: {worst}"


def random_tokens(seed, vocab_size, length=17, count=4):
    return np.random.default_rng(seed).integers(0, vocab_size, count * length + 1), length


def report(rows):
    print(f"{'model':28}" + "".join(f"{k:>15}" for k in LIMITS))
    print(f"{'(limit)':28}" + "".join(f"{v:15.0e}" for v in LIMITS.values()))
    failed = False
    for name, found, remark in rows:
        too_far = [k for k, limit in LIMITS.items() if not found[k] <= limit]
        failed |= bool(too_far)
        print(f"{name:28}" + "".join(f"{found[k]:15.2e}" for k in LIMITS) + f"  {remark}" + (f"  FAILED: {too_far}" if too_far else ""))
    print("hf_parity: " + ("FAILED" if failed else f"all of {len(rows)} agree") + f" (transformers {transformers.__version__}, torch {torch.__version__})")
    return 1 if failed else 0


def describe(config):
    return (f"M{config.hidden_size} H{config.intermediate_size} E{config.num_local_experts}/{config.num_experts_per_tok} "
            f"h{config.num_attention_heads}/{config.num_key_value_heads}")


def compare_random(work, seeds):
    rows = []
    for seed in range(1, seeds + 1):
        folder, side = work / f"seed-{seed}/hf", work / f"seed-{seed}/weft"
        folder.mkdir(parents=True, exist_ok=True)
        side.mkdir(exist_ok=True)
        model = make_model(random_config(seed), seed)
        save(model, folder, ["per_expert", "fused", "sharded"][seed % 3])
        tokens, length = random_tokens(seed, model.config.vocab_size)
        rows.append((f"{seed}: {describe(model.config)}", *compare(folder, side, tokens, length)))
    return report(rows)


def make_fixtures():
    for seed, (name, (how, config)) in enumerate(fixture_configs().items()):
        folder = FIXTURES / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = make_model(config, seed)
        save(model, folder, how)
        (folder / "generation_config.json").unlink(missing_ok=True)
        tokens, length = random_tokens(seed, config.vocab_size, length=13, count=3)
        write_tokens(folder / "tokens.bin", tokens)
        expected = torch_outputs(model, tokens, length)
        arrays = {"logits": expected["logits"]} | {f"gradient:{n}": g for n, g in expected["gradients"].items()}
        arrays["losses"] = np.array(torch_losses(model, tokens, length))
        save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, folder / "expected.safetensors")
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"{folder}: {size} bytes, {describe(config)}, losses {arrays['losses'][0]:.4f} -> {arrays['losses'][-1]:.4f}")
    return 0


def main():
    parser = argparse.ArgumentParser(prog="scripts/hf_parity", description="Compares Weft with transformers.")
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--make_fixtures", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if args.make_fixtures:
        return make_fixtures()
    with tempfile.TemporaryDirectory(prefix="hf_parity-") as temporary:
        work = Path(temporary)
        if args.folder and (args.folder / "config.json").exists():
            vocab_size = json.loads((args.folder / "config.json").read_text())["vocab_size"]
            tokens, length = random_tokens(1, vocab_size)
            return report([(args.folder.name, *compare(args.folder, work, tokens, length))])
        return compare_random(args.folder or work, args.seeds)


if __name__ == "__main__":
    sys.exit(main())
